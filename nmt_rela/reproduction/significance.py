"""Confidence intervals and significance of BLEU and chrF by sacreBLEU's own (paired) bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

#: Resampled test sets.
SAMPLES = 1000


def paired_bootstrap(
    systems: Sequence[tuple[str, Sequence[str]]], references: Sequence[str], *, tokenizer: str
) -> dict[str, dict[str, dict[str, float | None]]]:
    """By system and metric (``bleu``, ``chrf``): ``score``, 95 % interval ``low`` to ``high``, and ``p``.

    p is the probability of a difference to the first system as large as the observed one under resampling alone
    (Koehn 2004); None for the first system. SACREBLEU_SEED fixes the random numbers.
    """
    metrics = {"BLEU": BLEU(tokenize=tokenizer), "chrF2": CHRF()}
    test = PairedTest(list(systems), metrics, [references], test_type="bs", n_samples=SAMPLES)
    found: dict[str, list[Any]] = test()[1]
    return {
        name: {
            "bleu": _interval(bleu),
            "chrf": _interval(chrf),
        }
        for (name, _), bleu, chrf in zip(systems, found["BLEU"], found["chrF2"], strict=True)
    }


def _interval(found: Any) -> dict[str, float | None]:
    return {
        "score": float(found.score),
        "low": float(found.mean - found.ci),
        "high": float(found.mean + found.ci),
        "p": None if found.p_value is None else float(found.p_value),
    }
