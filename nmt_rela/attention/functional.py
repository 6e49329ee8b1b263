"""Maps from a row of scores to a row of attention weights.

Every map works on the last dimension, in float32 at least whatever the autocast state, and needs no mask: a key whose
score is the dtype's lowest number gets weight exactly 0 and passes gradient exactly 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

# A row's threshold is found by Newton's method on a convex, decreasing function, started left of the root: the steps
# never overshoot, and end when no row has more than this many units in the last place of mass to lose.
_TOLERANCE_IN_EPS = 16
_MAX_STEPS = 100
# Hardly a batch is done before: till then nobody looks whether it is. A step from the root stays there.
_SURE_STEPS = 3
# Floats in a CPU's widest vector. PyTorch takes eight times as long for the softmax of a row that does not fill one,
# and half as long again for arithmetic between rows and single numbers where rows end within one.
_CPU_VECTOR = 16
# A tensor, as PyTorch would make one of the number at every call.
_ONE = torch.tensor(1.0)


def relu(scores: Tensor) -> Tensor:
    """max(0, s): no normalisation, so a row may be all 0 (ReLA, Zhang et al. 2021)."""
    return scores.relu()


def softmax(scores: Tensor) -> Tensor:
    """exp(s) / Σ exp(s)."""
    keys = scores.shape[-1]
    if scores.device.type == "cpu" and keys < _CPU_VECTOR:
        scores = F.pad(scores, (0, _CPU_VECTOR - keys), value=-math.inf)
    return scores.softmax(dim=-1, dtype=_at_least_float32(scores.dtype)).to(scores.dtype)[..., :keys]


def sparsemax(scores: Tensor) -> Tensor:
    """argmin_p ‖p − s‖² over the simplex (Martins and Astudillo 2016): p = max(0, s − τ) with Σ p = 1."""
    wide = scores.to(_at_least_float32(scores.dtype))
    weights: Tensor = _Sparsemax.apply(wide) if torch.is_grad_enabled() else _sparsemax_weights(wide)
    return weights.to(scores.dtype)


def entmax15(scores: Tensor) -> Tensor:
    """1.5-entmax (Peters, Niculae and Martins 2019): p = max(0, s/2 − τ)² with Σ p = 1."""
    wide = scores.to(_at_least_float32(scores.dtype))
    weights: Tensor = _Entmax15.apply(wide) if torch.is_grad_enabled() else _entmax15_roots(wide).square_()
    return weights.to(scores.dtype)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _project(gradient: Tensor, slope: Tensor) -> Tensor:
    """The product with the Jacobian diag(s) − s sᵀ / Σ s that both maps share, s being p^(2−α) on the support."""
    mean = (gradient * slope).sum(dim=-1, keepdim=True) / slope.sum(dim=-1, keepdim=True)
    return slope * (gradient - mean)


def _sparsemax_weights(scores: Tensor) -> Tensor:
    """The root of Σ max(0, x − τ) = 1. The function is piecewise linear, so Newton's steps end at the exact root."""
    # Left of the root: at a threshold of the maximum − 1, the largest score alone has mass 1.
    weights = _below_maximum(scores).add_(_ONE).relu_()
    tolerance = _TOLERANCE_IN_EPS * torch.finfo(weights.dtype).eps
    for steps in range(_MAX_STEPS):
        excess = weights.sum(dim=-1, keepdim=True).sub_(_ONE)
        if steps >= _SURE_STEPS and excess.amax().item() <= tolerance:
            break
        # The sum of signs is the size of the support; on CPUs all that yields booleans or integers is slow.
        step = excess.div_(weights.sign().sum(dim=-1, keepdim=True)).relu_()
        weights.sub_(step).relu_()  # what a smaller threshold has cut off stays cut off
    return weights[..., : scores.shape[-1]]


def _entmax15_roots(scores: Tensor) -> Tensor:
    """The square roots of the weights: max(0, x − τ) at the root of Σ max(0, x − τ)² = 1 with x = s/2."""
    roots = _below_maximum(scores)
    torch.add(_ONE, roots, alpha=0.5, out=roots).relu_()
    tolerance = _TOLERANCE_IN_EPS * torch.finfo(roots.dtype).eps
    for steps in range(_MAX_STEPS):
        norm = torch.linalg.vector_norm(roots, dim=-1, keepdim=True)
        excess = norm - _ONE
        if steps >= _SURE_STEPS and excess.amax().item() <= tolerance / 2:  # of the norm: the mass is its square
            break
        # Newton's step for ‖roots‖ = 1: it is as convex as the sum of squares, and straighter, so fewer steps do.
        step = excess.mul_(norm).div_(roots.sum(dim=-1, keepdim=True)).relu_()
        roots.sub_(step).relu_()
    return roots[..., : scores.shape[-1]]


def _below_maximum(scores: Tensor) -> Tensor:
    """Scores less the maximum of their row; on a CPU with as many keys of −∞ behind them as fill its vectors."""
    missing = -scores.shape[-1] % _CPU_VECTOR if scores.device.type == "cpu" else 0
    if missing == 0:
        return scores - scores.amax(dim=-1, keepdim=True)
    wide = F.pad(scores, (0, missing), value=-math.inf)
    return wide.sub_(wide.amax(dim=-1, keepdim=True))


class _Sparsemax(Function):
    @staticmethod
    def forward(context: Any, scores: Tensor) -> Tensor:
        weights = _sparsemax_weights(scores).contiguous()
        context.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (weights,) = context.saved_tensors
        return _project(gradient, weights.sign())


class _Entmax15(Function):
    @staticmethod
    def forward(context: Any, scores: Tensor) -> Tensor:
        roots = _entmax15_roots(scores).contiguous()
        context.save_for_backward(roots)
        return roots.square()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # x = s/2 halves the slope: dp/ds = √p on the support.
        (roots,) = context.saved_tensors
        return _project(gradient, roots)
