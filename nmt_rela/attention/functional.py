"""The equations: weight functions, from a row of attention scores to a row of weights, and the norm of ReLA.

Every weight function works on the last dimension, in float32 or wider whatever the autocast state. It returns the dtype
of its input. None needs a mask: a key whose score is the dtype's lowest number, or −∞ beside finite scores, has weight
exactly 0 and gradient exactly 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# The thresholds of sparsemax and 1.5-entmax are roots of convex, decreasing functions. Newton's method starts left of
# the root and never overshoots. It ends when no row can lose more than this many units in the last place of its mass.
_TOLERANCE_IN_EPS = 16
_MAX_STEPS = 100
# Convergence is not checked before this step, because almost no batch converges earlier. A step after convergence
# changes nothing.
_MIN_STEPS = 3


def relu(scores: Tensor) -> Tensor:
    """max(0, s). Rows are not normalized; a row may be all 0 (ReLA, Zhang, Titov and Sennrich 2021).

    Training runs it fused: kernels/cpu/rela_attention.py on a CPU, kernels/triton/sparse_attention.py on a GPU.
    """
    return scores.relu()


def softmax(scores: Tensor) -> Tensor:
    """exp(s) / Σ exp(s)."""
    return scores.softmax(dim=-1, dtype=_at_least_float32(scores.dtype)).to(scores.dtype)


def sparsemax(scores: Tensor) -> Tensor:
    """argmin_p ‖p − s‖² over the simplex: p = max(0, s − τ) with Σ p = 1 (Martins and Astudillo 2016)."""
    wide = scores.to(_at_least_float32(scores.dtype))
    weights: Tensor = _Sparsemax.apply(wide) if torch.is_grad_enabled() else _sparsemax_weights(wide)
    return weights.to(scores.dtype)


def entmax15(scores: Tensor) -> Tensor:
    """1.5-entmax: p = max(0, s/2 − τ)² with Σ p = 1 (Peters, Niculae and Martins 2019)."""
    wide = scores.to(_at_least_float32(scores.dtype))
    weights: Tensor = _Entmax15.apply(wide) if torch.is_grad_enabled() else _entmax15_sqrt_weights(wide).square_()
    return weights.to(scores.dtype)


def gated_rms_norm(z: Tensor, gate: Tensor | None, *, epsilon: float) -> Tensor:
    """σ(a ⊙ z) ⊙ z / √(mean(z²) + ε) over the last dimension; without the factor σ where ``gate`` a is None."""
    wide = z.to(_at_least_float32(z.dtype))
    normed = wide * (wide.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()
    if gate is not None:
        normed = (gate * wide).sigmoid() * normed
    return normed.to(z.dtype)


def _sparsemax_weights(scores: Tensor) -> Tensor:
    """max(0, x − τ) at the root τ of Σ max(0, x − τ) = 1. The sum is piecewise linear, so Newton is exact."""
    one = scores.new_ones(())  # PyTorch would convert a Python number at every call
    # At τ = max − 1 the largest score alone has mass 1, so this start is left of the root.
    weights = _subtract_row_max(scores).add_(one).relu_()
    tolerance = _TOLERANCE_IN_EPS * torch.finfo(weights.dtype).eps
    for step in range(_MAX_STEPS):
        excess = weights.sum(dim=-1, keepdim=True).sub_(one)
        if step >= _MIN_STEPS and excess.amax().item() <= tolerance:
            break
        support_size = weights.sign().sum(dim=-1, keepdim=True)
        weights.sub_(excess.div_(support_size).relu_()).relu_()
    return weights


def _entmax15_sqrt_weights(scores: Tensor) -> Tensor:
    """√p = max(0, x − τ) at the root τ of ‖max(0, x − τ)‖ = 1, with x = s/2.

    The norm is as convex as the sum of squares and straighter, so Newton's method needs fewer steps.
    """
    one = scores.new_ones(())
    sqrt_weights = torch.add(one, _subtract_row_max(scores), alpha=0.5).relu_()
    tolerance = _TOLERANCE_IN_EPS * torch.finfo(sqrt_weights.dtype).eps / 2  # of the norm; the mass is its square
    for step in range(_MAX_STEPS):
        norm = torch.linalg.vector_norm(sqrt_weights, dim=-1, keepdim=True)
        excess = norm - one
        if step >= _MIN_STEPS and excess.amax().item() <= tolerance:
            break
        step_size = excess.mul_(norm).div_(sqrt_weights.sum(dim=-1, keepdim=True))
        sqrt_weights.sub_(step_size.relu_()).relu_()
    return sqrt_weights


def _subtract_row_max(scores: Tensor) -> Tensor:
    return scores - scores.amax(dim=-1, keepdim=True)


def _jacobian_product(gradient: Tensor, slope: Tensor) -> Tensor:
    """The product with the Jacobian diag(c) − c cᵀ / Σ c of both sparse functions, with c = p^(2−α) on the support."""
    mean = (gradient * slope).sum(dim=-1, keepdim=True) / slope.sum(dim=-1, keepdim=True)
    return slope * (gradient - mean)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


class _Sparsemax(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = _sparsemax_weights(scores)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        return _jacobian_product(gradient, weights.sign())


class _Entmax15(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        sqrt_weights = _entmax15_sqrt_weights(scores)
        ctx.save_for_backward(sqrt_weights)
        return sqrt_weights.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # x = s/2 halves the slope: dp/ds = √p on the support.
        (sqrt_weights,) = ctx.saved_tensors
        return _jacobian_product(gradient, sqrt_weights)
