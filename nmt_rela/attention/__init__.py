"""Attention: scores, maps, norms, kernels."""
