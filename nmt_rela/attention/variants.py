"""The five attention kinds: which map turns scores into weights, and what norm follows the heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from nmt_rela.attention import functional
from nmt_rela.attention.rela_norm import GatedRMSNorm


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table."""

    #: Scores to weights, over the last dimension.
    mapping: Callable[[Tensor], Tensor]
    #: Makes the norm of the concatenated heads from their width.
    output_norm: Callable[[int], nn.Module]
    #: Whether every row that sees a key sums to 1.
    normalised: bool


ATTENTION_VARIANTS: dict[str, Kind] = {
    "softmax": Kind(functional.softmax, nn.Identity, normalised=True),
    "sparsemax": Kind(functional.sparsemax, nn.Identity, normalised=True),
    "entmax15": Kind(functional.entmax15, nn.Identity, normalised=True),
    "rela-i": Kind(functional.relu, partial(GatedRMSNorm, gated=False), normalised=False),
    "rela-g": Kind(functional.relu, partial(GatedRMSNorm, gated=True), normalised=False),
}
