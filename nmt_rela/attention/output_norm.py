"""The norm that stands between the concatenated heads and the output projection of ReLA."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nmt_rela.attention.paths import has_kernels_for

EPSILON = 1e-8


class RectifiedOutputNorm(nn.Module):
    """RMSNorm over the whole width, with the two remedies of ReLA against its unbounded, unnormalised sums.

    RMSNorm(z) = g ⊙ z / √(mean(z²) + ε), no mean subtracted, no bias, ε = 1e-8.

    * ReLA-i (``gated=False``): RMSNorm(z), with the gain g drawn from U(−√(3/d), √(3/d)).
    * ReLA-g (``gated=True``): σ(a ⊙ z) ⊙ RMSNorm(z), with g = 1, and the gate vector a drawn from the same
      distribution; the gate sees z before normalisation.

    Works in float32 at least and returns the input's dtype. Shape: [..., width] → [..., width].
    Source: Zhang, Titov and Sennrich 2021, and the authors' code.
    """

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.gate = nn.Parameter(torch.empty(width)) if gated else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial gain or gate."""
        bound = math.sqrt(3.0 / self.gain.numel())
        if self.gate is None:
            nn.init.uniform_(self.gain, -bound, bound)
        else:
            nn.init.ones_(self.gain)
            nn.init.uniform_(self.gate, -bound, bound)

    def forward(self, heads: Tensor) -> Tensor:
        if has_kernels_for(heads):
            from nmt_rela.attention.kernels.norm import gated_rms_norm

            return gated_rms_norm(heads, self.gain, self.gate, epsilon=EPSILON)
        output: Tensor = _RectifiedOutputNorm.apply(heads, self.gain, self.gate)
        return output


class _RectifiedOutputNorm(Function):
    """Keeps z alone for the backward pass and makes the rest again: half the memory traffic of the composed form."""

    @staticmethod
    def forward(context: Any, heads: Tensor, gain: Tensor, gate: Tensor | None) -> Tensor:
        z = heads if heads.dtype == torch.float64 else heads.float()
        inverse = torch.linalg.vector_norm(z, dim=-1, keepdim=True).square_().div_(z.shape[-1]).add_(EPSILON).rsqrt_()
        context.save_for_backward(heads, gain, gate, inverse)
        output = (z * inverse).mul_(gain)
        if gate is not None:
            output.mul_((z * gate).sigmoid_())
        return output.to(heads.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        heads, gain, gate, inverse = context.saved_tensors
        z = heads if heads.dtype == torch.float64 else heads.float()
        outer = gradient.to(z.dtype)
        normed = z * inverse  # n, with output = σ(a z) · g · n
        gate_gradient = through_gate = None
        if gate is not None:
            sigma = (z * gate).sigmoid_()
            gated = outer * sigma
            # ∂σ(a z) = σ (1 − σ): the part of the gradient that reaches a z
            inner = (1.0 - sigma).mul_(gated).mul_(normed).mul_(gain)
            gate_gradient = _over_rows(inner * z)
            through_gate = inner.mul_(gate)
            outer = gated
        gain_gradient = _over_rows(outer * normed)
        direct = outer * gain
        # ∂n/∂z = inverse · (1 − n nᵀ / width)
        z_gradient = direct.sub_(normed.mul_((direct * normed).mean(dim=-1, keepdim=True))).mul_(inverse)
        if through_gate is not None:
            z_gradient.add_(through_gate)
        return z_gradient.to(heads.dtype), gain_gradient, gate_gradient


def _over_rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).sum(dim=0)
