"""Dropout that is not paid for in random numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 1 << 16


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each number with the given probability and scale the others so that the mean stays; identity at evaluation.

    PyTorch draws one number an element from the CPU's Mersenne twister, a fifth of an update of a small model. Here one
    64-bit draw serves four elements with 16 bits each: the probability is exact to 2^-17, and the scale belongs to the
    rounded one. On other devices this is PyTorch's own dropout.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    kept, scale = dropout_mask(x, probability)
    return x * kept.mul_(scale)


def dropout_mask(x: Tensor, probability: float) -> tuple[Tensor, float]:
    """What dropout on a CPU keeps of a tensor, 1 or 0 in its shape and dtype, and the scale of what is kept."""
    dropped_levels = round(probability * _LEVELS)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    # Compared in place they become whole numbers: to make booleans and convert them takes PyTorch three times as long.
    kept = bits.ge_(dropped_levels - _LEVELS // 2).to(x.dtype)
    return kept, _LEVELS / (_LEVELS - dropped_levels)
