"""Random translations, drawn from the model token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt_rela.generation.beam_candidates import FORBIDDEN
from nmt_rela.generation.beam_search import SearchState, follow
from nmt_rela.generation.hypothesis import Hypothesis
from nmt_rela.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to draw. Raises ConfigError for values out of range."""

    seed: int = 1
    #: Divides the logits: below 1 prefers the likely, above 1 flattens.
    temperature: float = 1.0
    #: Draw from the so many most probable tokens only (0: all).
    top_k: int = 0
    #: Draw from the smallest set of most probable tokens that holds this probability (Holtzman et al. 2020; 1: all).
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ConfigError(f"temperature: found {self.temperature}; accepted: above 0")
        if self.top_k < 0:
            raise ConfigError(f"top-k: found {self.top_k}; accepted: 0 (all) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top-p: found {self.top_p}; accepted: above 0, up to 1")


def sample(
    state: SearchState,
    sampling: Sampling,
    *,
    sentences: int,
    samples: int,
    keys: Sequence[int],
    max_lengths: Tensor,
    length_penalty: float = 0.6,
    min_length: int = 0,
    prefixes: Sequence[Sequence[int]] | None = None,
    forbidden: Sequence[int] = FORBIDDEN,
) -> list[list[Hypothesis]]:
    """``samples`` independent sequences a sentence, best score first; the other arguments are those of ``beam_search``.

    The random numbers of a sentence depend on the seed and its key (say, its line number) alone, whatever batch it is
    in. Log-probabilities are the model's own, not those of the tempered and truncated distribution.
    """
    steps = int(max_lengths.max()) if sentences else 0
    # One uniform number a token, turned into a token by the inverse of the cumulative distribution.
    uniforms = torch.empty(sentences, samples, steps, dtype=torch.float64)
    for row, key in enumerate(keys):
        # The generator looks at the lowest 32 bits of a seed only: let all of both numbers reach them.
        mixed = np.random.SeedSequence([sampling.seed % 2**64, key]).generate_state(1, np.uint32)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        uniforms[row] = torch.rand(steps, samples, dtype=torch.float64, generator=generator).T
    uniforms = uniforms.to(max_lengths.device)

    def draw(logits: Tensor, step: int, rows: Tensor) -> Tensor:
        return _draw(logits / sampling.temperature, uniforms[rows, :, step], top_k=sampling.top_k, top_p=sampling.top_p)

    return follow(
        state, draw, sentences=sentences, chains=samples, max_lengths=max_lengths, length_penalty=length_penalty,
        min_length=min_length, prefixes=prefixes, forbidden=forbidden,
    )  # fmt: skip


def _draw(logits: Tensor, uniforms: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Tokens [...] from logits [..., V] and one uniform number [...] each."""
    ids = None
    if top_k:
        logits, ids = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    elif top_p < 1.0:
        logits, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = logits.double().softmax(dim=-1)
    if top_p < 1.0:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    threshold = (uniforms * cumulative[..., -1]).unsqueeze(-1)
    places = torch.searchsorted(cumulative, threshold, right=True)
    return (places if ids is None else ids.gather(-1, places)).squeeze(-1)
