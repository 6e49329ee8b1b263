"""Triton kernels. They are imported where they are first used: the package works without Triton."""
