"""Confidence intervals and significance of scores by sacreBLEU's own (paired) bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sacrebleu.significance import PairedTest

#: Resampled test sets.
SAMPLES = 1000
#: ``score``, 95 % interval ``low`` to ``high``, and ``p``.
Interval = dict[str, float | None]


def paired_bootstrap(
    systems: Sequence[tuple[str, Sequence[str]]], references: Sequence[Sequence[str]], metrics: Mapping[str, Any]
) -> dict[str, dict[str, Interval]]:
    """By system and metric of sacreBLEU: ``score``, 95 % interval ``low`` to ``high``, and ``p``.

    p is the probability of a difference to the first system as large as the observed one under resampling alone
    (Koehn 2004); None for the first system. SACREBLEU_SEED fixes the random numbers.
    """
    if not metrics:
        return {name: {} for name, _ in systems}
    test = PairedTest(list(systems), dict(metrics), list(references), test_type="bs", n_samples=SAMPLES)
    _, *columns = test()[1].values()  # the names of the systems, and the results of each metric
    found = dict(zip(metrics, columns, strict=True))
    return {
        name: {metric: _interval(results[number]) for metric, results in found.items()}
        for number, (name, _) in enumerate(systems)
    }


def _interval(found: Any) -> Interval:
    return {
        "score": float(found.score),
        "low": float(found.mean - found.ci),
        "high": float(found.mean + found.ci),
        "p": None if found.p_value is None else float(found.p_value),
    }
