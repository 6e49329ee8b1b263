"""The norm that stands between the concatenated heads and the output projection of ReLA."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nmt_rela.attention.backends import triton_is_available_for

EPSILON = 1e-8


class GatedRMSNorm(nn.Module):
    """RMSNorm over the whole width, with the two remedies of ReLA against its unbounded, unnormalised sums.

    RMSNorm(z) = g ⊙ z / √(mean(z²) + ε), no mean subtracted, no bias, ε = 1e-8.

    * ReLA-i (``gated=False``): RMSNorm(z), with the gain g drawn from U(−√(3/d), √(3/d)).
    * ReLA-g (``gated=True``): σ(a ⊙ z) ⊙ RMSNorm(z), with g = 1, and the gate vector a drawn from the same
      distribution; the gate sees z before normalisation.

    Returns all but the gain, which it only holds: the output projection that follows takes it into its matrix, smaller
    than the states. Works in float32 at least and returns the input's dtype; where no gradients are wanted it may
    overwrite the input. Shape: [..., width] → [..., width].
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
        if triton_is_available_for(heads):
            from nmt_rela.kernels.triton.gated_rms_norm import gated_rms_norm

            return gated_rms_norm(heads, self.gate, epsilon=EPSILON)
        if not torch.is_grad_enabled():
            return _gated_norm(heads, self.gate, in_place=True)[0]
        output: Tensor = _GatedNorm.apply(heads, self.gate)
        return output


def _gated_norm(heads: Tensor, gate: Tensor | None, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The output; the inverse root of the mean square of each row; σ."""
    z = heads if heads.dtype == torch.float64 else heads.float()
    width = z.shape[-1]
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    root_of_width, root_of_epsilons = _constants(width, z.dtype)
    inverse = root_of_width / torch.hypot(norm, root_of_epsilons)
    sigma = None if gate is None else (z * gate).sigmoid_()
    output = torch.mul(z, inverse, out=z if in_place else None)
    if sigma is not None:
        output.mul_(sigma)
    return output.to(heads.dtype), inverse, sigma


@cache
def _constants(width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """√d and √(d ε). As tensors, for PyTorch would make such ones of numbers at every call."""
    with torch.inference_mode(False):
        return torch.tensor(math.sqrt(width), dtype=dtype), torch.tensor(math.sqrt(width * EPSILON), dtype=dtype)


class _GatedNorm(Function):
    """Half the memory traffic of the composed form."""

    @staticmethod
    def forward(context: Any, heads: Tensor, gate: Tensor | None) -> Tensor:
        output, inverse, sigma = _gated_norm(heads, gate, in_place=False)
        context.save_for_backward(heads, gate, inverse, sigma)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With u the gradient of the output, r the inverse root, w = u σ and v = w z (1 − σ):
        #   ∂z = r (w + a v) − r³ z mean(w z),   ∂a = Σ r v z,   the mean over a row, the sum over all rows.
        heads, gate, inverse, sigma = context.saved_tensors
        if sigma is None:
            return _through_norm(gradient, heads, inverse), None
        z = heads.to(sigma.dtype)
        outer = gradient.to(sigma.dtype) * sigma  # w
        inner = outer * z
        radial = inner.mean(dim=-1, keepdim=True).mul_(inverse.pow(3))
        inner.addcmul_(inner, sigma, value=-1.0)  # v
        z_gradient = outer.addcmul_(inner, gate.to(sigma.dtype)).mul_(inverse).addcmul_(z, radial, value=-1.0)
        _, gate_gradient = _fused_sums(inner, z, inverse, of_rows=False)
        return z_gradient.to(heads.dtype), gate_gradient.to(gate.dtype)


def _through_norm(gradient: Tensor, z: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of z from that of r z."""
    z_gradient, _ = _fused_sums(gradient, z, inverse, of_rows=True)
    # Layer norm has subtracted the mean of the gradient too.
    return z_gradient.add_(gradient.mean(dim=-1, keepdim=True).mul_(inverse))


def _fused_sums(x: Tensor, z: Tensor, scale: Tensor, *, of_rows: bool) -> tuple[Tensor, Tensor]:
    """s (x − mean(x)) − s³ z mean(x z) with means over rows, or Σ s x z over all rows, for one scale s a row: the
    backward pass of a layer norm that is told that the mean was 0.
    """
    unit = torch.ones(z.shape[-1], dtype=scale.dtype)
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        x, z, unit.shape, torch.zeros_like(scale), scale, unit, None, (of_rows, not of_rows, False)
    )
    return gradients[0], gradients[1]
