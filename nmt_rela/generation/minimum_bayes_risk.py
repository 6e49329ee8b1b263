"""Minimum-Bayes-risk decoding: of several candidates, the one that agrees most with all (Kumar and Byrne 2004).

The candidates stand for the model's distribution: each has the same weight, a sample that was drawn twice counts twice
(Eikema and Aziz 2020, arXiv:2005.10283). Agreement is sacreBLEU's sentence-level chrF or BLEU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from nmt_rela.generation.options import TranslationHypothesis

Utility = Literal["chrf", "bleu"]


def rank_by_expected_utility(
    candidates: Sequence[TranslationHypothesis], utility: Utility, *, spaced: bool = True
) -> list[TranslationHypothesis]:
    """The different candidates, best first. Their score is the mean utility, in percent, against all candidates.

    BLEU counts characters where the language is not ``spaced``.
    """
    counts = Counter(candidate.text for candidate in candidates)
    measure = _sentence_score(utility, "13a" if spaced else "char")
    expected = {
        text: sum(count * measure(text, reference) for reference, count in counts.items()) / len(candidates)
        for text in counts
    }
    different = {candidate.text: candidate for candidate in reversed(candidates)}  # the first of equal texts
    ranked = sorted(counts, key=lambda text: (-expected[text], -different[text].log_probability))
    return [replace(different[text], score=expected[text]) for text in ranked]


def _sentence_score(utility: Utility, tokenizer: str) -> Callable[[str, str], float]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF() if utility == "chrf" else BLEU(effective_order=True, tokenize=tokenizer)
    return lambda text, reference: metric.sentence_score(text, [reference]).score
