"""Sparsity rate and null rate of attention weights: the one definition, for validation and for the analysis.

*Valid* positions are those a query may attend to: neither padding nor, in the decoder, the future. The sparsity rate is
the fraction of valid weights that are exactly 0. A row is *null* when all its weights are 0; the null rate is the
fraction of valid queries whose row is null.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.attention_capture import observe_attention
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer


def valid_positions(site: str, source_valid: Tensor, target_valid: Tensor) -> Tensor:
    """Where attention at ``site`` may look: bool [batch, queries, keys].

    ``source_valid`` [batch, source] and ``target_valid`` [batch, target] are False at padding. Decoder self-attention
    is causal: a query sees itself and what precedes it.
    """
    queries = source_valid if site == "encoder" else target_valid
    keys = target_valid if site == "decoder" else source_valid
    valid = queries[:, :, None] & keys[:, None, :]
    return valid.tril() if site == "decoder" else valid


def null_rows(weights: Tensor, valid: Tensor) -> Tensor:
    """Which valid queries have an all-zero row, bool [batch, heads, queries].

    ``weights`` is [batch, heads, queries, keys], ``valid`` bool [batch, queries, keys].
    """
    all_zero = (weights == 0).logical_or_(~valid[:, None]).all(-1)
    return all_zero & valid.any(-1)[:, None]


class SparsityCounts:
    """Sums from which the rates of each head of one layer or site follow. They stay on the device of the weights."""

    def __init__(self, heads: int, device: torch.device | str = "cpu") -> None:
        self.zeros, self.null_rows = (torch.zeros(heads, dtype=torch.float64, device=device) for _ in range(2))
        #: Valid weights and valid queries of one head.
        self.positions, self.queries = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))

    def add(self, weights: Tensor, valid: Tensor) -> Tensor:
        """Count ``weights`` [batch, heads, queries, keys] where ``valid`` [batch, queries, keys]; the null rows."""
        null = null_rows(weights, valid)
        self.zeros += ((weights == 0) & valid[:, None]).sum((0, 2, 3))
        self.null_rows += null.sum((0, 2))
        self.positions += valid.sum()
        self.queries += valid.any(-1).sum()
        return null

    def sparsity(self) -> Tensor:
        """Sparsity rate of every head; 0 where nothing was counted."""
        return self.zeros / self.positions.clamp(min=1)

    def null_rate(self) -> Tensor:
        """Null rate of every head; 0 where nothing was counted."""
        return self.null_rows / self.queries.clamp(min=1)


@torch.no_grad()
def attention_sparsity(model: Transformer, batch: Batch) -> dict[str, float]:
    """``sparsity_SITE`` and ``null_SITE`` of one batch, for each site over all its layers and heads.

    The batch must be on the model's device.
    """
    source_valid, target_valid = batch.source != PAD, batch.target != PAD
    valid = {site: valid_positions(site, source_valid, target_valid) for site in ATTENTION_SITES}
    heads = next(iter(model.attention_modules().values())).num_heads
    counts = {site: SparsityCounts(heads, batch.source.device) for site in ATTENTION_SITES}

    def count(site: str, layer: int, weights: Tensor) -> None:
        counts[site].add(weights, valid[site])

    with observe_attention(model, count):
        model.decode(model.shift_right(batch.target), model.encode(batch.source))
    sparsity = {f"sparsity_{site}": float(counts[site].sparsity().mean()) for site in ATTENTION_SITES}
    return sparsity | {f"null_{site}": float(counts[site].null_rate().mean()) for site in ATTENTION_SITES}
