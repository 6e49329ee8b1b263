"""Does the null rate of a sentence predict the quality of its translation? Correlations and AUC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nmt_rela.analysis.teacher_forcing import EncodedPair, TeacherForcedBatch, teacher_forced_pass
from nmt_rela.metrics.attention_sparsity import null_rows
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer

#: Null rates [sentences, heads] by (site, layer).
NullRates = Mapping[tuple[str, int], npt.NDArray[np.float32]]


#: A correlation as it stands in ``analysis.json``: ``site``; ``layer``, or None for the mean over all layers of the
#: site; ``pearson`` and ``spearman``, None where the null rate or the quality is constant.
Correlation = dict[str, Any]


class SentenceNullRates:
    """An attention consumer that keeps the null rate of every sentence and head."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, int], dict[int, npt.NDArray[np.float32]]] = {}

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        valid = batch.valid(site)
        queries = valid.any(-1).sum(-1)
        rates = (null_rows(weights, valid).sum(-1) / queries[:, None]).float().cpu().numpy()  # [batch, heads]
        by_index = self._rates.setdefault((site, layer), {})
        by_index |= {pair.index: rate.copy() for pair, rate in zip(batch.pairs, rates, strict=True)}

    def of(self, pairs: Sequence[EncodedPair]) -> NullRates:
        """Null rates in the order of ``pairs``."""
        return {key: np.stack([rates[pair.index] for pair in pairs]) for key, rates in self._rates.items()}


def measure_quality(
    model: Transformer, pairs: Sequence[EncodedPair], translated: Sequence[EncodedPair], chrf: Sequence[float]
) -> dict[str, Any]:
    """The null rate as a predictor of translation quality: the part ``quality`` of ``analysis.json``.

    ``translation_chrf`` correlates null rates, while the model reads its own translation, with the chrF of that
    translation. ``mismatch_auc`` is, by site, the probability that a mismatched pair has a higher null rate than a
    matched one; 0.5 is chance.

    ``translated`` has the sources of ``pairs`` with the model's own translations, ``chrf`` the score of each. A
    mismatched pair is a source with the target of another sentence of similar length.
    """
    matched = sorted(pairs, key=lambda pair: (len(pair.target), pair.index))
    targets = [pair.target for pair in matched[1:] + matched[:1]]
    mismatched = [EncodedPair(p.index, p.source, target) for p, target in zip(matched, targets, strict=True)]
    low, high = _null_rates(model, matched), _null_rates(model, mismatched)
    return {
        "sentences": len(pairs),
        "translation_chrf": null_rate_correlations(_null_rates(model, translated), chrf),
        "mismatch_auc": {site: auc(_site_mean(low, site), _site_mean(high, site)) for site in ATTENTION_SITES},
    }


def _null_rates(model: Transformer, pairs: Sequence[EncodedPair]) -> NullRates:
    null_rates = SentenceNullRates()
    teacher_forced_pass(model, pairs, [null_rates])
    return null_rates.of(pairs)


def _site_mean(rates: NullRates, site: str) -> npt.NDArray[np.float32]:
    """[sentences], over the layers and heads of the site."""
    mean: npt.NDArray[np.float32] = np.mean([r.mean(axis=1) for key, r in rates.items() if key[0] == site], axis=0)
    return mean


def null_rate_correlations(null_rates: NullRates, quality: npt.ArrayLike) -> list[Correlation]:
    """The correlation of each sentence's null rate with its quality (larger is better), per site and per layer."""
    found = []
    for site in dict.fromkeys(site for site, _ in null_rates):
        layers = sorted(layer for name, layer in null_rates if name == site)
        series: dict[int | None, npt.NDArray[np.float32]] = {None: _site_mean(null_rates, site)}
        series |= {layer: null_rates[site, layer].mean(axis=1) for layer in layers}
        found += [
            {"site": site, "layer": layer, "pearson": pearson(rates, quality), "spearman": spearman(rates, quality)}
            for layer, rates in series.items()
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
    """Ranks from 1; equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2.0)[inverse]
    return ranks


def auc(negatives: npt.ArrayLike, positives: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that a positive has the higher value; ties count half."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (negatives, positives))
    ranks = mean_ranks(np.concatenate([a, b]))[len(a) :]
    return float((ranks.sum() - len(b) * (len(b) + 1) / 2) / (len(a) * len(b)))
