"""What a processor likes better than the equations: fused, packed and vectorised forms."""
