"""Memory of the host that is taken unseen: freed blocks that the C library keeps (glibc alone is known here), and
products that PyTorch keeps compiled.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes of a block from which on the system is asked for each block: as many as glibc accepts, by its version.
_LARGEST_BLOCKS = (1 << 30, 1 << 25)
_NEVER = (1 << 31) - 1

# Of oneDNN and of the layer that PyTorch has above it.
_CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_COMPILED_PRODUCTS = 16


def disable_malloc_trimming() -> None:
    """Let this process keep what it frees. By itself glibc returns large blocks at once, and every update has its
    pages fetched and cleared by the kernel again.

    It is a setting of the whole process, so that commands make it and the library does not. What is kept fragments:
    ``trim_malloc`` belongs to it.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        # Blocks first: whichever is set ends glibc's own adapting of both, and small mapped blocks would be slow.
        any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def trim_malloc() -> None:
    """Give freed memory back to the system.

    Batches of ever other shapes fragment the heap: on a CPU a run of a small model held 6 GiB after 50 minutes, where
    two dozen of its updates leave 0.6 GiB once trimmed. Mapping large blocks one by one instead took two thirds more
    time an update.
    """
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def limit_onednn_cache(batches: int) -> None:
    """Let PyTorch keep 16 compiled matrix products on a CPU for each of the ``batches`` that are at work at once, where
    it would keep 1,024. To be called before the first one; what the user has set in the environment stays.

    A product is compiled for the shape of its batch. The layers of one step share five or so; a stream of ever other
    batches has thousands, and up to gigabytes are kept for shapes that hardly come again.
    """
    for name in _CAPACITIES:
        os.environ.setdefault(name, str(_COMPILED_PRODUCTS * batches))


def _glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
