"""Files, text, progress, memory, errors: what every folder of the package may use."""
