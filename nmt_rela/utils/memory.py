"""Memory that the C library keeps: how much, and how to return it. The functions know glibc only."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Block sizes from which every block is mapped separately: the largest that glibc accepts, by its version.
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)
_NEVER = (1 << 31) - 1


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch raised it because memory is short. On a CPU it has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def disable_malloc_trimming() -> None:
    """Make the C library keep freed memory for this process.

    By default glibc returns large blocks at once, and the kernel maps and clears their pages again at every update.
    This is a setting of the whole process: commands call it, the library does not. Freed memory fragments, so
    ``trim_malloc`` must be called now and then.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        # Blocks first. Setting either value ends glibc's own adaptation of both, and small mapped blocks would be slow.
        any(mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def trim_malloc() -> None:
    """Return freed memory to the system.

    Constantly changing batch shapes fragment the heap. A small-model run on a CPU grew to 6 GiB in 50 minutes; trimming
    brings it to 0.6 GiB.
    """
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
