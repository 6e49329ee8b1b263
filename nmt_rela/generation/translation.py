"""What a translator returns."""

from __future__ import annotations

from dataclasses import dataclass

from nmt_rela.metrics.word_alignment import Link


@dataclass(frozen=True, kw_only=True, slots=True)
class Translated:
    """One translation of a line."""

    text: str
    #: Log-probability over the length penalty: what hypotheses of one line are ranked by.
    score: float
    #: Natural logarithm of the probability of the whole, the sum of those of the tokens.
    log_probability: float
    #: Sub-words, the end of sentence included where the model ended (a line that was split has one end a part).
    tokens: tuple[str, ...]
    token_log_probabilities: tuple[float, ...]
    #: Word links (source word, target word), counted from 0 at white space; None when not asked for.
    alignment: frozenset[Link] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """A line and its translations, best first; there is always one (a blank line's is empty)."""

    source: str
    hypotheses: tuple[Translated, ...]

    @property
    def text(self) -> str:
        """The best translation."""
        return self.hypotheses[0].text

    @property
    def score(self) -> float:
        """The best translation's score."""
        return self.hypotheses[0].score


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringResult:
    """What the model thinks of a translation that somebody gave."""

    #: Natural logarithm of the probability of the whole, its end included.
    log_probability: float
    tokens: tuple[str, ...]
    token_log_probabilities: tuple[float, ...]


#: A blank line's translation.
NOTHING = Translated(text="", score=0.0, log_probability=0.0, tokens=(), token_log_probabilities=())
