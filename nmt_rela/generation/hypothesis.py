"""One output sequence of a search, and the length penalty that ranks them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One output sequence.

    ``log_probability`` (nats) is the sum over the tokens. ``score`` is ``log_probability`` over the length penalty.
    """

    #: Without BOS. The last token is EOS unless the search cut the sequence at its maximum length.
    tokens: tuple[int, ...]
    score: float
    log_probability: float
    token_log_probabilities: tuple[float, ...]


def length_penalty_factor(length: int, exponent: float) -> float:
    """((5 + length) / 6)^exponent (Wu et al. 2016, eq. 14, without coverage). ``length`` counts EOS."""
    return float(((5.0 + length) / 6.0) ** exponent)
