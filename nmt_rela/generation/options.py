"""What is asked of a translator, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nmt_rela.config.schema import DecodingConfig
from nmt_rela.generation.alignment import AlignmentOptions
from nmt_rela.generation.sampling import Sampling
from nmt_rela.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """How lines are to be translated. Raises ConfigError for settings out of range."""

    decoding: DecodingConfig
    n_best: int = 1
    sampling: Sampling | None = None
    align: AlignmentOptions | None = None

    def __post_init__(self) -> None:
        if self.decoding.beam < 1:
            raise ConfigError(f"beam: found {self.decoding.beam}; accepted: 1 or more")
        if self.n_best < 1 or (self.sampling is None and self.n_best > self.decoding.beam):
            raise ConfigError(f"n-best: found {self.n_best}; accepted: 1 up to the beam, {self.decoding.beam}")

    @property
    def sequences(self) -> int:
        """Sequences that grow at once for a sentence: the beam, or the samples."""
        return self.decoding.beam if self.sampling is None else self.n_best


def with_settings(decoding: DecodingConfig, **settings: bool | int | float | None) -> DecodingConfig:
    """``decoding`` under those settings that are not None."""
    return replace(decoding, **{name: value for name, value in settings.items() if value is not None})  # type: ignore[arg-type]
