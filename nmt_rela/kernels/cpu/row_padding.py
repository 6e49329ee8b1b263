"""Weight functions over rows that fill SIMD vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

#: Float32 numbers in a CPU's widest vector. PyTorch takes eight times as long for the softmax of a row that does not
#: fill one, and half as long again for arithmetic between rows and single numbers where rows end within one.
_VECTOR = 16


def on_whole_vectors(weight_fn: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    """``weight_fn(scores)`` over the last dimension, computed with keys of −∞ appended up to a multiple of 16.

    Appended keys have weight 0 and change no other weight.
    """
    keys = scores.shape[-1]
    missing = -keys % _VECTOR
    if missing == 0:
        return weight_fn(scores)
    return weight_fn(F.pad(scores, (0, missing), value=-math.inf))[..., :keys]
