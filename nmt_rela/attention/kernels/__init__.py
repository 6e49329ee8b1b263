"""Fused fast paths."""
