"""The five attention variants: the weight function of each, and the norm of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nmt_rela.attention import functional


@dataclass(frozen=True, slots=True)
class AttentionVariant:
    """One row of the table."""

    #: From scores to weights, over the last dimension.
    weight_fn: Callable[[Tensor], Tensor]
    #: Whether every row that sees a key sums to 1.
    sums_to_one: bool
    #: The norm of the concatenated heads: none, RMSNorm (ReLA-i), or RMSNorm with a gate (ReLA-g).
    output_norm: Literal["none", "rms", "gated_rms"] = "none"


ATTENTION_VARIANTS: dict[str, AttentionVariant] = {
    "softmax": AttentionVariant(functional.softmax, sums_to_one=True),
    "sparsemax": AttentionVariant(functional.sparsemax, sums_to_one=True),
    "entmax15": AttentionVariant(functional.entmax15, sums_to_one=True),
    "rela-i": AttentionVariant(functional.relu, sums_to_one=False, output_norm="rms"),
    "rela-g": AttentionVariant(functional.relu, sums_to_one=False, output_norm="gated_rms"),
}
