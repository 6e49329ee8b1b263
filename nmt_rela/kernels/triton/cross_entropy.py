"""Label-smoothed cross-entropy of a chunk of logits in Triton, which reads them twice and writes them once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def cross_entropy_forward_backward(
    logits: Tensor, targets: Tensor, *, smoothing: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and −log p(gold) of each row, in float32. The gradients overwrite the logits.

    ``logits`` is [tokens, vocabulary], contiguous, of any floating dtype; ``targets`` is [tokens]. The entropy of the
    smoothed target is not subtracted. Without ``with_gradient`` the logits stay.
    """
    tokens, outputs = logits.shape
    losses, nlls = logits.new_empty(2, tokens, dtype=torch.float32).unbind()
    with torch.cuda.device_of(logits):
        _kernel[(tokens,)](
            logits, targets, losses, nlls, outputs, smoothing / (outputs - 1), smoothing,
            GRADIENT=with_gradient, BLOCK=min(triton.next_power_of_2(outputs), 4096), num_warps=8,
        )  # fmt: skip
    return losses, nlls


@triton.jit
def _kernel(Logits, Targets, Losses, Nlls, outputs, spread, smoothing, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    Logits += row * outputs
    columns = tl.arange(0, BLOCK)
    row_max = tl.full([BLOCK], float("-inf"), tl.float32)
    powers = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, outputs, BLOCK):
        inside = start + columns < outputs
        logits = tl.load(Logits + start + columns, mask=inside, other=0.0).to(tl.float32)
        total += logits
        grown = tl.maximum(row_max, tl.where(inside, logits, row_max))
        # A column that has seen no logit yet subtracts −∞ from −∞, which the condition masks.
        powers = tl.where(powers > 0.0, powers * tl.exp(row_max - grown), 0.0)
        powers += tl.where(inside, tl.exp(logits - grown), 0.0)
        row_max = grown
    maximum = tl.max(row_max, axis=0)
    normalizer = maximum + tl.log(tl.sum(powers * tl.exp(row_max - maximum), axis=0))
    target = tl.load(Targets + row)
    gold = tl.load(Logits + target).to(tl.float32) - normalizer  # log p(gold)
    tl.store(Nlls + row, -gold)
    # −Σ_v q_v log p_v with q = 1 − ε at the gold token, spread elsewhere
    rest = tl.sum(total, axis=0) - outputs * normalizer
    tl.store(Losses + row, -(1.0 - smoothing - spread) * gold - spread * rest)
    if GRADIENT:
        for start in range(0, outputs, BLOCK):
            inside = start + columns < outputs
            logits = tl.load(Logits + start + columns, mask=inside, other=0.0).to(tl.float32)
            wanted = tl.where(start + columns == target, 1.0 - smoothing, spread)
            gradient = tl.exp(logits - normalizer) - wanted
            tl.store(Logits + start + columns, gradient.to(Logits.dtype.element_ty), mask=inside)
