"""Translations as lines of text: plain, Moses n-best, JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from nmt_rela.generation.options import ScoringResult, Translation, TranslationHypothesis
from nmt_rela.metrics.word_alignment import format_pharaoh

SEPARATOR = " ||| "


def format_text(translation: Translation, number: int, with_scores: bool) -> Iterator[str]:
    """One line: the best translation, then what was asked for, as ``text ||| score ||| i-j …``."""
    best = translation.hypotheses[0]
    yield SEPARATOR.join([strip_newlines(best.text), *_extra_fields(best, with_score=with_scores)])


def format_moses(translation: Translation, number: int, with_scores: bool) -> Iterator[str]:
    """One line per hypothesis, as Moses writes them: ``line number ||| text ||| score``, then the alignment if any."""
    for hypothesis in translation.hypotheses:
        fields = [str(number), strip_newlines(hypothesis.text), *_extra_fields(hypothesis, with_score=True)]
        yield SEPARATOR.join(fields)


def format_jsonl(translation: Translation, number: int, with_scores: bool) -> Iterator[str]:
    """One JSON object: source, translation, and every hypothesis with its scores, sub-words and alignment."""
    yield json.dumps(
        {
            "line": number,
            "source": translation.source,
            "translation": translation.text,
            "hypotheses": [_as_dict(hypothesis) for hypothesis in translation.hypotheses],
        },
        ensure_ascii=False,
    )


def format_score_jsonl(score: ScoringResult) -> str:
    """A JSON object: the log-probability of a given translation, its sub-words and their log-probabilities."""
    return json.dumps(asdict(score), ensure_ascii=False)


def strip_newlines(text: str) -> str:
    """The text with spaces for line ends, so that one translation is one line whatever the model writes."""
    return text.replace("\n", " ").replace("\r", " ")


def _extra_fields(hypothesis: TranslationHypothesis, *, with_score: bool) -> list[str]:
    fields = [f"{hypothesis.score:.6f}"] if with_score else []
    return fields if hypothesis.alignment is None else [*fields, format_pharaoh(hypothesis.alignment)]


def _as_dict(hypothesis: TranslationHypothesis) -> dict[str, Any]:
    values = asdict(hypothesis)
    alignment = values.pop("alignment")
    return values if alignment is None else values | {"alignment": sorted(alignment)}
