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
        if not torch.is_grad_enabled():
            return _gated_norm(heads, self.gain, self.gate)[0]
        output: Tensor = _RectifiedOutputNorm.apply(heads, self.gain, self.gate)
        return output


def _gated_norm(heads: Tensor, gain: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output, and the inverse root of the mean square of each row."""
    z = heads if heads.dtype == torch.float64 else heads.float()
    inverse = torch.linalg.vector_norm(z, dim=-1, keepdim=True).square_().div_(z.shape[-1]).add_(EPSILON).rsqrt_()
    output = (z * inverse).mul_(gain)
    if gate is not None:
        output.mul_((z * gate).sigmoid_())
    return output.to(heads.dtype), inverse


class _RectifiedOutputNorm(Function):
    """Keeps z alone for the backward pass and makes the rest again: half the memory traffic of the composed form."""

    @staticmethod
    def forward(context: Any, heads: Tensor, gain: Tensor, gate: Tensor | None) -> Tensor:
        output, inverse = _gated_norm(heads, gain, gate)
        context.save_for_backward(heads, gain, gate, inverse)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With u the gradient of the output, r the inverse root, σ = σ(a z), w = u σ and m = Σ w g z / width:
        #   ∂g = Σ r w z,   ∂a = g Σ r w (1 − σ) z²,   ∂z = r (w g − r² m z + w (1 − σ) z g a),   sums over rows.
        heads, gain, gate, inverse = context.saved_tensors
        dtype = torch.float64 if heads.dtype == torch.float64 else torch.float32
        z, outer, inverse = heads.flatten(0, -2).to(dtype), gradient.flatten(0, -2).to(dtype), inverse.flatten()
        gain = gain.to(dtype)
        sigma = None if gate is None else (z * gate).sigmoid_()
        gated = outer if sigma is None else outer * sigma  # w
        weighted = gated * z
        mean = weighted.mv(gain).div_(z.shape[1])
        gain_gradient = weighted.t().mv(inverse)
        z_gradient = (gated * gain).addcmul_(z, mean.mul_(inverse).mul_(inverse).unsqueeze(1), value=-1.0)
        gate_gradient = None
        if gate is not None and sigma is not None:
            inner = weighted.addcmul_(weighted, sigma, value=-1.0)  # σ' = σ (1 − σ)
            gate_gradient = (inner * z).t().mv(inverse).mul_(gain)
            z_gradient.addcmul_(inner, gain * gate)
        z_gradient.mul_(inverse.unsqueeze(1))
        return z_gradient.to(heads.dtype).view_as(heads), gain_gradient, gate_gradient
