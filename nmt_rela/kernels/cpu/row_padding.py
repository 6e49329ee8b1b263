"""Weight functions over rows that fill SIMD vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

#: Float32 numbers in a CPU's widest vector.
_VECTOR = 16


def on_whole_vectors(weight_fn: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    """``weight_fn(scores)`` over the last dimension, computed with keys of −∞ appended up to a multiple of 16.

    Appended keys have weight 0 and change no other weight. Arithmetic between rows and single numbers takes PyTorch
    half as long again where rows end within a vector.
    """
    keys = scores.shape[-1]
    if keys % _VECTOR == 0:
        return weight_fn(scores)
    return weight_fn(F.pad(scores, (0, -keys % _VECTOR), value=-math.inf))[..., :keys]
