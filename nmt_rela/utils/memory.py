"""Memory that libraries keep: freed heap blocks (glibc) and compiled matmuls (oneDNN)."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Block size in bytes from which malloc asks the system for each block: the largest that versions of glibc accept.
_MAX_MMAP_THRESHOLDS = (1 << 30, 1 << 25)
_NEVER = (1 << 31) - 1

#: Environment variables of oneDNN's cache and of PyTorch's cache above it, in compiled matmuls.
_CACHE_CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_MATMULS_PER_BATCH = 16


def disable_malloc_trimming() -> None:
    """Keep freed memory in this process. By default glibc returns large blocks to the system, and the kernel maps and
    clears their pages again in every update.

    Only commands call it, because it changes the whole process. Kept memory fragments: call `trim_malloc` from time to
    time.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        # The mmap threshold first: setting either value stops glibc from adapting both; mapping small blocks is slow.
        any(mallopt(_MMAP_THRESHOLD, size) for size in _MAX_MMAP_THRESHOLDS)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def trim_malloc() -> None:
    """Return freed memory to the system.

    Changing batch shapes fragment the heap: a CPU run of a small model grew to 6 GiB in 50 minutes without trimming,
    and to 0.6 GiB with it.
    """
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def limit_onednn_cache(batches: int) -> None:
    """Keep at most 16 compiled matmuls per concurrent batch on a CPU instead of 1,024 in all.

    oneDNN compiles a matmul per shape. The layers of one step need about five; a stream of varying batches needs
    thousands, which occupy gigabytes and are hardly used again. Call it before the first matmul. Values that the user
    has set in the environment stay.
    """
    for name in _CACHE_CAPACITIES:
        os.environ.setdefault(name, str(_MATMULS_PER_BATCH * batches))


def _glibc(name: str) -> Any:
    """A function of the C library, or None if it is missing."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
