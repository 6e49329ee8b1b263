"""What a run directory holds, and checkpoints."""
