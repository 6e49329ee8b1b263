"""The bound of the matmuls that oneDNN keeps compiled."""

from __future__ import annotations

import os

_CACHE_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_CACHED_MATMULS = 16


def limit_onednn_cache(concurrent_batches: int) -> None:
    """Make PyTorch keep 16 compiled matmuls per concurrent batch on a CPU, instead of 1,024.

    oneDNN compiles a matmul for each batch shape. One step needs about five; a stream of changing shapes needs
    thousands, and up to gigabytes are kept for shapes that hardly return. Call this before the first matmul.
    Environment variables that the user has set stay as they are.
    """
    for name in _CACHE_VARIABLES:
        os.environ.setdefault(name, str(_CACHED_MATMULS * concurrent_batches))
