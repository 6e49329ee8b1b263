"""What a translator is asked for, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nmt_rela.config.schema import DecodingConfig
from nmt_rela.metrics.word_alignment import Link
from nmt_rela.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """How tokens are sampled. Raises ConfigError for values out of range."""

    seed: int = 1
    #: Divides the logits: below 1 sharpens the distribution, above 1 flattens it.
    temperature: float = 1.0
    #: Sample from this many most probable tokens only (0: all).
    top_k: int = 0
    #: Sample from the smallest set of most probable tokens with this probability (Holtzman et al. 2020; 1: all).
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ConfigError(f"--temperature: found {self.temperature}; accepted: above 0")
        if self.top_k < 0:
            raise ConfigError(f"--top-k: found {self.top_k}; accepted: 0 (all) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"--top-p: found {self.top_p}; accepted: above 0, up to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentOptions:
    """The cross-attention that word alignments are read from. Layers and heads count from 0.

    The default is the mean over the heads of the layer at five sixths of the depth, at the step that predicts the word.
    """

    layer: int | None = None
    head: int | None = None
    #: Use the step that reads the word as input, which is better in the lower layers.
    shifted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationOptions(DecodingConfig):
    """How lines are translated: the decoding settings of a run, and what one call adds to them.

    Raises ConfigError for values out of range.
    """

    #: Hypotheses returned per line.
    n_best: int = 1
    #: Sample ``n_best`` translations instead of searching for the best.
    sampling: SamplingOptions | None = None
    #: Extract word alignments.
    alignment: AlignmentOptions | None = None

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ConfigError(f"--beam-size: found {self.beam_size}; accepted: 1 or more")
        if self.min_length > self.max_length_offset + 1:
            raise ConfigError(
                f"min_length: found {self.min_length}; accepted: up to max_length_offset + 1, "
                f"which is {self.max_length_offset + 1}"
            )
        if self.n_best < 1 or (self.sampling is None and self.n_best > self.beam_size):
            raise ConfigError(f"--n-best: found {self.n_best}; accepted: 1 up to the beam size, {self.beam_size}")

    @classmethod
    def from_config(cls, config: DecodingConfig) -> TranslationOptions:
        """The decoding settings of a run."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(DecodingConfig)})

    @property
    def num_sequences(self) -> int:
        """Sequences per sentence that the decoder extends at once: the beam, or the samples."""
        return self.beam_size if self.sampling is None else self.n_best


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringResult:
    """The model's log-probability of a given translation."""

    #: Natural logarithm of the probability of the whole, EOS included.
    log_probability: float
    tokens: tuple[str, ...]
    token_log_probabilities: tuple[float, ...]
