"""Translations as lines of text: plain, JSON, Moses n-best."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from nmt_rela.generation.translation import ScoringResult, Translated, Translation
from nmt_rela.metrics.word_alignment import format_pharaoh

SEPARATOR = " ||| "

#: (translation, its line number from 0, whether scores are wanted) → lines without line ends.
Formatter = Callable[[Translation, int, bool], Iterator[str]]


def text_lines(translation: Translation, number: int, scores: bool) -> Iterator[str]:
    """One line a line: the best translation, then the extras that were asked for, as ``text ||| score ||| i-j …``."""
    best = translation.hypotheses[0]
    yield SEPARATOR.join([one_line(best.text), *_extras(best, scores=scores)])


def moses_lines(translation: Translation, number: int, scores: bool) -> Iterator[str]:
    """A line a hypothesis: ``line number ||| text ||| score``, then the word links where there are any, as Moses
    does.
    """
    for hypothesis in translation.hypotheses:
        yield SEPARATOR.join([str(number), one_line(hypothesis.text), *_extras(hypothesis, scores=True)])


def json_lines(translation: Translation, number: int, scores: bool) -> Iterator[str]:
    """One JSON object a line: source, translation, and every hypothesis with its scores, sub-words and word links."""
    yield json.dumps(
        {
            "line": number,
            "source": translation.source,
            "translation": translation.text,
            "hypotheses": [_as_dict(hypothesis) for hypothesis in translation.hypotheses],
        },
        ensure_ascii=False,
    )


def json_score(score: ScoringResult) -> str:
    """A JSON object: the log-probability of a given translation, its sub-words and theirs."""
    return json.dumps(asdict(score), ensure_ascii=False)


def one_line(text: str) -> str:
    """The text with blanks for line ends: the number of lines must not depend on what the model writes."""
    return text.replace("\n", " ").replace("\r", " ")


def _extras(hypothesis: Translated, *, scores: bool) -> list[str]:
    extras = [f"{hypothesis.score:.6f}"] if scores else []
    return extras if hypothesis.alignment is None else [*extras, format_pharaoh(hypothesis.alignment)]


def _as_dict(hypothesis: Translated) -> dict[str, Any]:
    values: dict[str, Any] = {
        "text": hypothesis.text,
        "score": hypothesis.score,
        "log_probability": hypothesis.log_probability,
        "tokens": hypothesis.tokens,
        "token_log_probabilities": hypothesis.token_log_probabilities,
    }
    if hypothesis.alignment is not None:
        values["alignment"] = sorted(hypothesis.alignment)
    return values
