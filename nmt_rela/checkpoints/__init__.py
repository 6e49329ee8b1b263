"""Checkpoints, the run directory, averaging."""
