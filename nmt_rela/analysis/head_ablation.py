"""Which heads matter: switch them off, one by one or in order, and see what it costs; and what null rows tell.

A head that is switched off gives 0 in place of its output, before the output norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nmt_rela.analysis.statistics import LayerStatistics
from nmt_rela.analysis.teacher_forcing import Pair, Progress, teacher_forced_pass
from nmt_rela.models.transformer import Transformer

#: Steps in which heads are switched off together.
ABLATION_STEPS = 8
#: (site, layer, head), layer and head counted from 0.
Head = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadEffect:
    """One head: how idle it looks, and how much worse the model is without it."""

    site: str
    layer: int
    head: int
    null_rate: float
    sparsity: float
    #: Rise of the loss, in nats a target sub-word, when only this head is off.
    loss_change: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationStep:
    """The model with the first ``heads_off`` heads of a ranking switched off together."""

    heads_off: int
    loss: float
    #: None unless translation was asked for.
    bleu: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadAblation:
    """What ``measure_heads`` found."""

    sentences: int
    loss: float
    #: All heads, in the order of ``rank_heads``: the idlest first.
    effects: tuple[HeadEffect, ...]
    #: Heads switched off together in that order.
    steps: tuple[AblationStep, ...]


@contextmanager
def ablate_heads(model: Transformer, heads: Iterable[Head]) -> Iterator[None]:
    """Silence some heads inside the block. Masks that were set before are combined, and come back afterwards.

    Raises ValueError for a head that the model does not have.
    """
    modules = model.attention_modules()
    before = {key: module.head_mask for key, module in modules.items()}
    device = next(model.parameters()).device
    try:
        for site, layer, head in heads:
            if (site, layer) not in modules or not 0 <= head < modules[site, layer].heads:
                raise ValueError(f"no head {head} at {site} layer {layer}")
            module = modules[site, layer]
            mask = torch.ones(module.heads, device=device) if module.head_mask is None else module.head_mask.clone()
            mask[head] = 0.0
            module.head_mask = mask
        yield
    finally:
        for key, module in modules.items():
            module.head_mask = before[key]


def rank_heads(layers: Iterable[LayerStatistics]) -> list[Head]:
    """All heads, the one that looks idlest first: by null rate, then by sparsity."""
    ranked = [
        (-null_rate, -sparsity, (layer.site, layer.layer, head))
        for layer in layers
        for head, (null_rate, sparsity) in enumerate(zip(layer.null_rate, layer.sparsity, strict=True))
    ]
    return [head for _, _, head in sorted(ranked)]


def loss_of(model: Transformer, pairs: Sequence[Pair]) -> float:
    """Negative log-likelihood in nats a target sub-word (end of sentence included), without label smoothing."""
    return float(-teacher_forced_pass(model, pairs).sum() / sum(len(pair.target) for pair in pairs))


def measure_heads(
    model: Transformer,
    pairs: Sequence[Pair],
    layers: Sequence[LayerStatistics],
    *,
    num_steps: int = ABLATION_STEPS,
    bleu: Callable[[], float] | None = None,
    progress: Progress | None = None,
) -> HeadAblation:
    """Switch off every head by itself, then more and more heads at once, up to all of them in ``num_steps`` steps.

    ``layers`` are the statistics that the ranking goes by. ``bleu`` translates with the model as it stands and returns
    a score; it is called once a step, and once before.
    """
    ranking = rank_heads(layers)
    rates = {(layer.site, layer.layer): layer for layer in layers}
    baseline = loss_of(model, pairs)
    effects = []
    for site, layer, head in ranking:
        with ablate_heads(model, [(site, layer, head)]):
            loss = loss_of(model, pairs)
        found = rates[site, layer]
        effects.append(
            HeadEffect(
                site=site,
                layer=layer,
                head=head,
                null_rate=found.null_rate[head],
                sparsity=found.sparsity[head],
                loss_change=loss - baseline,
            )
        )
        if progress is not None:
            progress.update(1)
    steps = []
    for off in sorted({round(step * len(ranking) / num_steps) for step in range(num_steps + 1)}):
        with ablate_heads(model, ranking[:off]):
            steps.append(AblationStep(heads_off=off, loss=loss_of(model, pairs), bleu=bleu() if bleu else None))
        if progress is not None:
            progress.update(1)
    return HeadAblation(sentences=len(pairs), loss=baseline, effects=tuple(effects), steps=tuple(steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """How the null rate of sentences goes with their quality; None where one of the two does not vary."""

    site: str
    #: None: all layers of the site together.
    layer: int | None
    #: Pearson's r.
    pearson: float | None
    #: Spearman's ρ, mean ranks for ties.
    spearman: float | None


def null_rate_correlations(
    null_rates: dict[tuple[str, int], npt.NDArray[np.float32]], quality: npt.ArrayLike
) -> list[Correlation]:
    """Correlate each sentence's null rate with its quality, for every site and every layer.

    ``null_rates`` has [sentences, heads] by site and layer, ``quality`` one number a sentence, larger is better.
    """
    wanted = np.asarray(quality, dtype=np.float64)
    found = []
    for site in dict.fromkeys(site for site, _ in null_rates):
        by_layer = {layer: rates.mean(axis=1) for (name, layer), rates in null_rates.items() if name == site}
        groups: list[tuple[int | None, npt.NDArray[np.float64]]] = [(None, np.mean(list(by_layer.values()), axis=0))]
        groups += [(layer, rates) for layer, rates in sorted(by_layer.items())]
        found += [
            Correlation(site=site, layer=layer, pearson=pearson(rates, wanted), spearman=spearman(rates, wanted))
            for layer, rates in groups
        ]
    return found


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Pearson's correlation; None where a side is constant or there are fewer than three values."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation; None as for ``pearson``."""
    return pearson(mean_ranks(first), mean_ranks(second))


def mean_ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """DistributedContext from 1; equal values share the mean of their ranks."""
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2.0)[places]
    return ranks


def auc(matched: npt.ArrayLike, mismatched: npt.ArrayLike) -> float:
    """How often a mismatched pair has the higher value (area under the ROC curve); 0.5 is chance, ties count half."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (matched, mismatched))
    ranks = mean_ranks(np.concatenate([a, b]))[len(a) :]
    return float((ranks.sum() - len(b) * (len(b) + 1) / 2) / (len(a) * len(b)))
