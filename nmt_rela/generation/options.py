"""What a translator is asked for, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from html import escape
from typing import TYPE_CHECKING, Literal

from nmt_rela.config.builder import check_fields
from nmt_rela.config.schema import DecodingConfig, bounds, show_settings
from nmt_rela.utils.errors import ConfigError

if TYPE_CHECKING:  # options are read before anything heavy is imported
    from nmt_rela.metrics.word_alignment import Link


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """How tokens are sampled. Raises ConfigError for values out of range."""

    seed: int = field(default=1, metadata=bounds(low=0))
    #: Divides the logits: below 1 sharpens the distribution, above 1 flattens it.
    temperature: float = field(default=1.0, metadata=bounds(low=0.001, high=1_000.0))
    #: Sample from this many most probable tokens only (0: all).
    top_k: int = field(default=0, metadata=bounds(low=0))
    #: Sample from the smallest set of most probable tokens with this probability (Holtzman et al. 2020; 1: all).
    top_p: float = field(default=1.0, metadata=bounds(low=1e-6, high=1.0))

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentOptions:
    """The cross-attention that word alignments are read from. Layers and heads count from 0.

    The default is the layer and the heads that were guided in training, otherwise the mean over the heads of the layer
    at five sixths of the depth, at the step that predicts the word.
    """

    layer: int | None = field(default=None, metadata=bounds(low=0))
    head: int | None = field(default=None, metadata=bounds(low=0))
    #: Use the step that reads the word as input, which is better in the lower layers.
    shifted: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationOptions(DecodingConfig):
    """How lines are translated: the decoding settings of a run, and what one call adds to them.

    Raises ConfigError for values out of range.
    """

    __repr__ = show_settings

    #: Hypotheses returned per line.
    n_best: int = field(default=1, metadata=bounds(low=1, high=1_000))
    #: Sample ``n_best`` translations instead of searching for the best.
    sampling: SamplingOptions | None = None
    #: Extract word alignments.
    alignment: AlignmentOptions | None = None
    #: Rank candidates by their mean chrF or BLEU against one another (minimum Bayes risk): ``candidates`` samples with
    #: ``sampling``, otherwise the whole beam.
    mbr: Literal["chrf", "bleu"] | None = None
    #: Samples that ``mbr`` ranks.
    candidates: int = field(default=32, metadata=bounds(low=2, high=1_000))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_length > self.max_length_offset + 1:
            raise ConfigError(
                f"min_length: found {self.min_length}; accepted: up to max_length_offset + 1, "
                f"which is {self.max_length_offset + 1}"
            )
        if self.sampling is None and self.n_best > self.beam_size:
            raise ConfigError(
                f"n_best (--n-best): found {self.n_best}; accepted: 1 up to the beam size, {self.beam_size}"
            )
        if self.mbr is not None and self.n_best > self.num_hypotheses:
            raise ConfigError(
                f"n_best (--n-best): found {self.n_best}; accepted: 1 up to {self.num_hypotheses} candidates"
            )

    @classmethod
    def from_config(cls, config: DecodingConfig) -> TranslationOptions:
        """The decoding settings of a run."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(DecodingConfig)})

    @property
    def num_sequences(self) -> int:
        """Sequences per sentence that the decoder extends at once: the beam, or the samples."""
        return self.beam_size if self.sampling is None else self.num_hypotheses

    @property
    def num_hypotheses(self) -> int:
        """Hypotheses per sentence that the search or the sampling returns."""
        if self.mbr is None:
            return self.n_best
        return self.beam_size if self.sampling is None else self.candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationHypothesis:
    """One translation of a line."""

    text: str
    #: Log-probability over the length penalty. Hypotheses of one line are ranked by it.
    score: float
    #: Natural logarithm of the probability of the whole: the sum over the tokens.
    log_probability: float
    #: Sub-words, EOS included where the model wrote it (a line that was split has one EOS per segment).
    tokens: tuple[str, ...]
    token_log_probabilities: tuple[float, ...]
    #: Links (source word, target word) between white-space separated words, counted from 0; None if not asked for.
    alignment: frozenset[Link] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text!r}, score {self.score:.4f}, {len(self.tokens)} sub-words>"


#: Classes of HTML in which a notebook takes no dollar signs for formulas.
NO_FORMULAS = "tex2jax_ignore mathjax_ignore"

#: The translation of a blank line.
EMPTY = TranslationHypothesis(text="", score=0.0, log_probability=0.0, tokens=(), token_log_probabilities=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """A line and its translations, best first. There is at least one; that of a blank line is empty."""

    source: str
    hypotheses: tuple[TranslationHypothesis, ...]

    @property
    def text(self) -> str:
        """The best translation."""
        return self.hypotheses[0].text

    def __repr__(self) -> str:
        more = f", {len(self.hypotheses)} hypotheses" if len(self.hypotheses) > 1 else ""
        return f"<{type(self).__name__} {self.source!r} → {self.text!r}, score {self.hypotheses[0].score:.4f}{more}>"

    def _repr_html_(self) -> str:
        """The source above its hypotheses and their scores, for a notebook."""
        rows = "".join(
            f'<tr><td dir="auto" style="text-align:start">{escape(hypothesis.text)}</td>'
            f"<td>{hypothesis.score:.4f}</td><td>{hypothesis.log_probability:.4f}</td></tr>"
            for hypothesis in self.hypotheses
        )
        return (
            f'<table class="{NO_FORMULAS}"><tr><th dir="auto" style="text-align:start">{escape(self.source)}</th>'
            f"<th>score</th><th>log-probability</th></tr>{rows}</table>"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringResult:
    """The model's log-probability of a given translation."""

    #: Natural logarithm of the probability of the whole, EOS included.
    log_probability: float
    tokens: tuple[str, ...]
    token_log_probabilities: tuple[float, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} log-probability {self.log_probability:.4f}, {len(self.tokens)} sub-words>"
