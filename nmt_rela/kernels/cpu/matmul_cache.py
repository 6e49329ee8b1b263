"""The bound of the matmuls that oneDNN keeps compiled."""

from __future__ import annotations

import os

#: oneDNN's own cache, and PyTorch's in front of it.
_ONEDNN, _PYTORCH = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
_CACHED_MATMULS = 16
#: Measured in scripts/benchmarks/RESULTS.md, under Memory.
_TRAINING_MATMULS = 8_192


def limit_onednn_cache(concurrent_batches: int) -> None:
    """Make PyTorch keep 16 compiled matmuls per concurrent batch on a CPU, instead of 1,024.

    oneDNN compiles a matmul for each batch shape. One step needs about five; a stream of changing shapes needs
    thousands, and up to gigabytes are kept for shapes that hardly return. Call this before the first matmul.
    Environment variables that the user has set stay as they are.
    """
    for name in (_ONEDNN, _PYTORCH):
        os.environ.setdefault(name, str(_CACHED_MATMULS * concurrent_batches))


def keep_training_matmuls() -> None:
    """Make oneDNN keep 8,192 compiled matmuls on a CPU, and PyTorch 16, instead of 1,024 each.

    With 16 in both, training in bf16 on a CPU with AMX spends about a third of its time compiling. A long training
    fills the cache, about half a MiB each. Training in float32 compiles next to nothing. PyTorch's cache makes nothing
    faster. Otherwise as `limit_onednn_cache`.
    """
    os.environ.setdefault(_ONEDNN, str(_TRAINING_MATMULS))
    os.environ.setdefault(_PYTORCH, str(_CACHED_MATMULS))
