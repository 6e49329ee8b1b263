"""From binary to tensors."""
