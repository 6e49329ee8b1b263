"""Statistics of attention weights, accumulated batch by batch in constant memory.

Definitions of sparsity, null rows and valid positions: ``metrics.attention_sparsity``. Logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmt_rela.analysis.teacher_forcing import TeacherForcedBatch
from nmt_rela.metrics.attention_sparsity import SparsityCounts
from nmt_rela.models.transformer import ATTENTION_SITES


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStatistics:
    """The statistics of one layer at one site over all sentences. Tuples have one entry per head."""

    site: str
    layer: int
    #: Valid queries, which is the number of rows per head.
    queries: int
    #: Valid positions per head, the denominator of the sparsity rate.
    positions: int
    sparsity: tuple[float, ...]
    null_rate: tuple[float, ...]
    #: Mean sum of a row; 1 for softmax, sparsemax and entmax15.
    mass: tuple[float, ...]
    #: Mean entropy of the sum-normalized rows, null rows left out; None where all rows are null.
    entropy: tuple[float | None, ...]
    #: Head diversity of sum-normalized rows, null rows left out; None where no query has two heads left.
    diversity: float | None
    #: Queries that ``diversity`` is averaged over: those with at least two heads whose row is not null.
    diversity_queries: int
    #: Null rows that ``diversity`` leaves out.
    diversity_null_rows: int
    #: Head diversity with a softmax over the valid keys of each row instead, so that a null row becomes uniform.
    diversity_softmax: float | None

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.sparsity)

    @property
    def mean_sparsity(self) -> float:
        """Sparsity rate over all heads."""
        return sum(self.sparsity) / self.heads

    @property
    def mean_null_rate(self) -> float:
        """Null rate over all heads."""
        return sum(self.null_rate) / self.heads


def head_diversity(rows: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Generalized Jensen-Shannon divergence over heads, H(mean p) - mean H(p) (Correia et al. 2019).

    ``rows`` [batch, heads, queries, keys] are distributions over keys. A head is left out of both means where
    ``present`` [batch, heads, queries] is False; its row must be 0 there. Returns the divergence [batch, queries], from
    0 to the logarithm of the number of present heads, and where it is defined (at least two heads) [batch, queries].
    """
    heads = present.sum(1)
    divisor = heads.clamp(min=1).to(rows.dtype)
    entropy_of_mean = _entropy(rows.sum(1) / divisor[..., None])
    mean_entropy = (_entropy(rows) * present).sum(1) / divisor
    # The bounds hold exactly; rounding may exceed them.
    return torch.minimum((entropy_of_mean - mean_entropy).clamp(min=0), divisor.log()), heads >= 2


def _entropy(rows: Tensor) -> Tensor:
    """[..., keys] -> [...]"""
    terms: Tensor = torch.special.entr(rows)
    return terms.sum(-1)


class _LayerSums:
    """The sums that the statistics of one layer are made of, in float64 on the device of the weights."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.counts = SparsityCounts(heads, device)
        self.mass, self.entropy = (torch.zeros(heads, dtype=torch.float64, device=device) for _ in range(2))
        #: Sum over queries and number of queries, for sum-normalized rows and for rows through a softmax.
        self.diversity, self.diversity_softmax = (torch.zeros(2, dtype=torch.float64, device=device) for _ in range(2))

    def add(self, weights: Tensor, valid: Tensor) -> None:
        """Add ``weights`` [batch, heads, queries, keys] at ``valid`` [batch, queries, keys]."""
        null = self.counts.add(weights, valid)  # [batch, heads, queries]
        is_query = valid.any(-1)[:, None]  # [batch, 1, queries]
        present = is_query & ~null
        mass = weights.sum(-1)
        rows = weights / mass.masked_fill(~present, 1)[..., None]
        self.mass += (mass * is_query).double().sum((0, 2))
        self.entropy += (_entropy(rows) * present).double().sum((0, 2))
        self.diversity += _sum_where_defined(*head_diversity(rows, present))
        soft_rows = weights.masked_fill(~valid[:, None], -math.inf).softmax(-1).nan_to_num(0.0)
        self.diversity_softmax += _sum_where_defined(*head_diversity(soft_rows, is_query.expand_as(null)))

    def result(self, site: str, layer: int) -> LayerStatistics:
        queries = int(self.counts.queries)
        null_rows = [int(count) for count in self.counts.null_rows.tolist()]
        diversity, diversity_queries = self.diversity.tolist()
        diversity_softmax, softmax_queries = self.diversity_softmax.tolist()
        return LayerStatistics(
            site=site,
            layer=layer,
            queries=queries,
            positions=int(self.counts.positions),
            sparsity=tuple(self.counts.sparsity().tolist()),
            null_rate=tuple(self.counts.null_rate().tolist()),
            mass=tuple((self.mass / max(queries, 1)).tolist()),
            entropy=tuple(
                total / (queries - null) if queries > null else None
                for total, null in zip(self.entropy.tolist(), null_rows, strict=True)
            ),
            diversity=diversity / diversity_queries if diversity_queries else None,
            diversity_queries=int(diversity_queries),
            diversity_null_rows=sum(null_rows),
            diversity_softmax=diversity_softmax / softmax_queries if softmax_queries else None,
        )


def _sum_where_defined(values: Tensor, defined: Tensor) -> Tensor:
    return torch.stack([(values * defined).double().sum(), defined.sum()])


class AttentionStatistics:
    """The statistics of every layer. It is an attention consumer; ``add`` takes weights from elsewhere."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], _LayerSums] = {}

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        self.add(site, layer, weights, batch.valid(site))

    def add(self, site: str, layer: int, weights: Tensor, valid: Tensor) -> None:
        """Add one batch.

        ``weights`` is [batch, heads, queries, keys] and 0 at keys that are not valid, ``valid`` is bool [batch,
        queries, keys].
        """
        key = (site, layer)
        if key not in self._sums:
            self._sums[key] = _LayerSums(weights.shape[1], weights.device)
        self._sums[key].add(weights.detach().float(), valid)

    def layers(self) -> list[LayerStatistics]:
        """The statistics so far, in the order encoder, decoder, cross, and by layer."""
        return [
            self._sums[key].result(*key)
            for key in sorted(self._sums, key=lambda key: (ATTENTION_SITES.index(key[0]), key))
        ]


def pool_layers(layers: Iterable[LayerStatistics]) -> list[dict[str, Any]]:
    """Per site its means over all layers, as in ``analysis.json``: ``site, layers, sparsity, null_rate, diversity``.

    Diversity is weighted by the queries for which it is defined; it is None where there are none.
    """
    by_site: dict[str, list[LayerStatistics]] = {}
    for layer in layers:
        by_site.setdefault(layer.site, []).append(layer)
    pooled = []
    for site, members in by_site.items():
        defined = [(layer.diversity, layer.diversity_queries) for layer in members if layer.diversity is not None]
        pooled.append(
            {
                "site": site,
                "layers": len(members),
                "sparsity": sum(layer.mean_sparsity for layer in members) / len(members),
                "null_rate": sum(layer.mean_null_rate for layer in members) / len(members),
                "diversity": sum(d * n for d, n in defined) / sum(n for _, n in defined) if defined else None,
            }
        )
    return pooled
