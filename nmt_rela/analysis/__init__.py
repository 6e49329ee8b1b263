"""What the heads attend to: capture, statistics, head study, plots, report."""
