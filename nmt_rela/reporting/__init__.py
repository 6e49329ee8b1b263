"""Reports about runs: their scores with intervals, curves, speed and settings, as text and as pages."""
