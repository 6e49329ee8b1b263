"""The norm that stands between the concatenated heads and the output projection of ReLA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RectifiedOutputNorm(nn.Module):
    """RMSNorm over the whole width, with the two remedies of ReLA against its unbounded, unnormalised sums.

    RMSNorm(z) = g ⊙ z / √(mean(z²) + ε), no mean subtracted, no bias, ε = 1e-8.

    * ReLA-i (``gated=False``): RMSNorm(z), with the gain g drawn from U(−√(3/d), √(3/d)).
    * ReLA-g (``gated=True``): σ(a ⊙ z) ⊙ RMSNorm(z), with g = 1, and the gate vector a drawn from the same
      distribution; the gate sees z before normalisation.

    Works in float32 at least and returns the input's dtype. Shape: [..., width] → [..., width].
    Source: Zhang, Titov and Sennrich 2021, and the authors' code.
    """

    EPSILON = 1e-8

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
        z = heads if heads.dtype == torch.float64 else heads.float()
        normed = z * torch.rsqrt(z.square().mean(dim=-1, keepdim=True) + self.EPSILON) * self.gain
        if self.gate is not None:
            normed = normed * torch.sigmoid(self.gate * z)
        return normed.to(heads.dtype)
