"""The norm between the concatenated heads of ReLA and the output projection."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nmt_rela.attention.backends import NORM_BACKENDS, choose_norm_backend

EPSILON = 1e-8


class ReLANorm(nn.Module):
    """The norm of ReLA: RMSNorm over the whole width d of the concatenated heads z, with a gate in ReLA-g.

    RMSNorm(z) = g ⊙ z / √(mean(z²) + ε), with the gain g in ``weight``, ε = 1e-8, no mean subtracted and no bias.

    * ReLA-i (``gated=False``): RMSNorm(z), with g drawn from U(−√(3/d), √(3/d)).
    * ReLA-g (``gated=True``): σ(a ⊙ z) ⊙ RMSNorm(z), with g = 1 and the gate vector a drawn from the same distribution.
      The gate sees z before the normalization.

    ``forward`` applies everything but the gain (`functional.gated_rms_norm`): the output projection that follows
    multiplies the gain into its matrix, which is smaller than the activations. Computed in float32 or wider, returned
    in the dtype of the input; without gradients the input may be overwritten. Shape: [..., d] → [..., d].
    Source: Zhang, Titov and Sennrich 2021, and the authors' code.
    """

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        #: The gain; None once it is multiplied into the output projection (`fold_norm_gain`, inference only).
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(width))
        self.gate = nn.Parameter(torch.empty(width)) if gated else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial gain or gate."""
        assert self.weight is not None
        bound = math.sqrt(3.0 / self.weight.numel())
        if self.gate is None:
            nn.init.uniform_(self.weight, -bound, bound)
        else:
            nn.init.ones_(self.weight)
            nn.init.uniform_(self.gate, -bound, bound)

    def forward(self, z: Tensor) -> Tensor:
        return NORM_BACKENDS[choose_norm_backend(z)](z, self.gate, epsilon=EPSILON)
