"""Kernels for GPUs, in Triton."""

import os

# Newer versions would round each product before it is added.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
