"""Numbers of attention weights, streamed: nothing grows with the corpus.

Shapes are named by their letters: B sentences, H heads, Q queries, K keys. *Valid* positions are those the model may
look at: neither padding nor, in the decoder, the future. All logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt_rela.metrics.attention_sparsity import SparsityCounts
from nmt_rela.models.transformer import SITES


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStatistics:
    """What the heads of one layer at one site did, over all sentences. Tuples have one entry a head."""

    site: str
    layer: int
    #: Valid queries: rows a head produced.
    queries: int
    #: Valid positions of one head: the denominator of its sparsity.
    positions: int
    #: Share of valid weights that are exactly 0.
    sparsity: tuple[float, ...]
    #: Share of valid queries whose whole row is 0.
    null_rate: tuple[float, ...]
    #: Mean sum of a row: 1 for softmax, sparsemax and entmax15.
    mass: tuple[float, ...]
    #: Mean entropy of the sum-normalised row over the rows that are not null; None where all are.
    entropy: tuple[float | None, ...]
    #: Head diversity with sum-normalised rows, null rows left out; None where no query has two heads left.
    diversity: float | None
    #: Queries that ``diversity`` is the mean of, those left out had fewer than two heads that were not null.
    diversity_queries: int
    #: Null rows left out of ``diversity``.
    diversity_null_rows: int
    #: Head diversity with each row put through a softmax over its valid keys (a null row becomes uniform).
    diversity_softmax: float | None

    @property
    def heads(self) -> int:
        """Heads of the layer."""
        return len(self.sparsity)

    @property
    def mean_sparsity(self) -> float:
        """Sparsity over all heads, which have the same number of positions each."""
        return sum(self.sparsity) / self.heads

    @property
    def mean_null_rate(self) -> float:
        """Null rate over all heads."""
        return sum(self.null_rate) / self.heads


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteStatistics:
    """One site, pooled over its layers: rates by their counts, diversity by the queries it is defined for."""

    site: str
    layers: int
    sparsity: float
    null_rate: float
    diversity: float | None


def _entropy(rows: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(rows)
    return terms.sum(-1)


def divergence(rows: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised Jensen-Shannon divergence over heads, H(mean p) - mean H(p) (Correia et al. 2019).

    ``rows`` [B, H, Q, K] are distributions over keys, or zeros where ``present`` [B, H, Q] is False: that head is
    left out of both means. Returns the divergence [B, Q] and whether it is defined (two heads or more) [B, Q]. It lies
    between 0 and the logarithm of the heads present; rounding beyond these bounds is cut off.
    """
    heads = present.sum(1)
    share = heads.clamp(min=1).to(rows.dtype)
    mixture = _entropy(rows.sum(1) / share[..., None])
    own = (_entropy(rows) * present).sum(1) / share
    return torch.minimum((mixture - own).clamp(min=0), share.log()), heads >= 2


class _LayerSums:
    """The running sums of one layer, in float64."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.counts = SparsityCounts(heads, device)
        self.mass, self.entropy = (torch.zeros(heads, dtype=torch.float64, device=device) for _ in range(2))
        self.diversity = self.diversity_softmax = 0.0
        self.diversity_queries = self.softmax_queries = 0

    def add(self, weights: Tensor, valid: Tensor) -> None:
        null = self.counts.add(weights, valid)  # [batch, heads, queries]
        valid_queries = valid.any(-1)[:, None]
        present = valid_queries & ~null
        mass = weights.sum(-1)
        rows = weights / mass.masked_fill(~present, 1)[..., None]
        self.mass += (mass * valid_queries).double().sum((0, 2))
        self.entropy += (_entropy(rows) * present).double().sum((0, 2))
        value, defined = divergence(rows, present)
        self.diversity += float((value * defined).double().sum())
        self.diversity_queries += int(defined.sum())
        soft = weights.masked_fill(~valid[:, None], -math.inf).softmax(-1).nan_to_num(0.0)
        value, defined = divergence(soft, valid_queries.expand_as(null))
        self.diversity_softmax += float((value * defined).double().sum())
        self.softmax_queries += int(defined.sum())

    def result(self, site: str, layer: int) -> LayerStatistics:
        queries, null = int(self.counts.queries), self.counts.null_rows.tolist()
        rows = [queries - int(count) for count in null]
        return LayerStatistics(
            site=site,
            layer=layer,
            queries=queries,
            positions=int(self.counts.positions),
            sparsity=tuple(self.counts.sparsity().tolist()),
            null_rate=tuple(self.counts.null_rate().tolist()),
            mass=tuple((self.mass / max(queries, 1)).tolist()),
            entropy=tuple(e / n if n else None for e, n in zip(self.entropy.tolist(), rows, strict=True)),
            diversity=self.diversity / self.diversity_queries if self.diversity_queries else None,
            diversity_queries=self.diversity_queries,
            diversity_null_rows=int(sum(null)),
            diversity_softmax=self.diversity_softmax / self.softmax_queries if self.softmax_queries else None,
        )


class AttentionStatistics:
    """Statistics of every layer, gathered batch by batch."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], _LayerSums] = {}

    def add(self, site: str, layer: int, weights: Tensor, valid: Tensor) -> None:
        """Count one batch: ``weights`` [B, H, Q, K] (0 at keys that are not valid), ``valid`` bool [B, Q, K]."""
        key = (site, layer)
        if key not in self._sums:
            self._sums[key] = _LayerSums(weights.shape[1], weights.device)
        self._sums[key].add(weights.detach().float(), valid)

    def layers(self) -> list[LayerStatistics]:
        """Everything seen so far, in the order encoder, decoder, cross, layer by layer."""
        ordered = sorted(self._sums, key=lambda key: (SITES.index(key[0]) if key[0] in SITES else len(SITES), key))
        return [self._sums[key].result(*key) for key in ordered]


def pool_layers(layers: Iterable[LayerStatistics]) -> list[SiteStatistics]:
    """One line a site: its layers together."""
    by_site: dict[str, list[LayerStatistics]] = {}
    for layer in layers:
        by_site.setdefault(layer.site, []).append(layer)
    return [_pool_site(site, members) for site, members in by_site.items()]


def _pool_site(site: str, layers: Sequence[LayerStatistics]) -> SiteStatistics:
    defined = [(layer.diversity, layer.diversity_queries) for layer in layers if layer.diversity is not None]
    return SiteStatistics(
        site=site,
        layers=len(layers),
        sparsity=sum(layer.mean_sparsity for layer in layers) / len(layers),
        null_rate=sum(layer.mean_null_rate for layer in layers) / len(layers),
        diversity=sum(d * n for d, n in defined) / sum(n for _, n in defined) if defined else None,
    )
