"""Files, text, progress, memory, errors: what every room may use."""
