"""Confidence intervals and significance of scores by sacreBLEU's own (paired) bootstrap."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sacrebleu.significance import PairedTest

from nmt_rela.generation.evaluation import Entry
from nmt_rela.metrics.translation import metrics_of, sacrebleu_metrics
from nmt_rela.utils.text import read_lines

LOG = logging.getLogger(__name__)

#: Resampled test sets.
SAMPLES = 1000
#: ``score``, 95 % interval ``low`` to ``high``, and ``p``.
Interval = dict[str, float | None]


def intervals_of(evaluations: Sequence[tuple[str, Path, Entry]]) -> dict[str, dict[str, Interval]]:
    """The intervals of `paired_bootstrap` for the metrics that all evaluations of one test set have.

    An evaluation is the name of a system, the directory that nmt-evaluate has written, and its entry of scores.json.
    Without translations or references in the directories there are no intervals.
    """
    _, directory, entry = evaluations[0]
    files = [directory / name for name in entry.get("references", [])]
    files += [directory / f"{entry['name']}.txt" for _, directory, _ in evaluations]
    texts = [list(read_lines(path)) for path in files if path.is_file()]
    is_recorded = {"references", "bleu_tokenizer"} <= entry.keys()
    if not is_recorded or len(texts) < len(files) or len(set(map(len, texts))) > 1:
        LOG.warning("%s: no intervals, translations or references are missing in %s", entry["name"], directory)
        return {}
    shared = [metric for metric in metrics_of([entry]) if all(metric in other for _, _, other in evaluations)]
    LOG.info("bootstrap of %s: %s", entry["name"], ", ".join(name for name, _, _ in evaluations))
    count = len(evaluations)
    systems = [(name, lines) for (name, _, _), lines in zip(evaluations, texts[-count:], strict=True)]
    return paired_bootstrap(systems, texts[:-count], sacrebleu_metrics(shared, entry["bleu_tokenizer"]))


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
