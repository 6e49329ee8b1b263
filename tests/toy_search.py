"""A scorer one can see through: the next token depends on the last one, by a table for each sentence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmt_rela.data.vocabulary import BOS, EOS, PAD, UNK


def table(*, sentences: int, vocabulary: int, seed: int) -> Tensor:
    """Logits [sentences, last token, next token]."""
    return torch.randn(sentences, vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)) * 1.5


class TableState:
    """Speaks the protocol of the search, and checks that it is spoken to properly: beams are re-ordered as they
    should be.
    """

    def __init__(self, tables: Tensor, *, beams: int, memory: float = 0.1) -> None:
        self.tables, self.memory = tables, memory
        self.history = torch.zeros(len(tables), 1, 0, dtype=torch.long)
        self.rows_seen: list[int] = []

    def step(self, tokens: Tensor) -> Tensor:
        assert tokens.shape == self.history.shape[:2]
        assert (tokens == BOS).all() or self.history.shape[2] > 0
        self.history = torch.cat([self.history, tokens.unsqueeze(2)], dim=2)
        self.rows_seen.append(len(tokens))
        # The whole history has its say, a little, so that a beam continued from the wrong history is found out.
        past = torch.sin(self.history.double() @ torch.arange(1.0, self.history.shape[2] + 1.0).double()) * self.memory
        logits = self.tables[torch.arange(len(tokens)).unsqueeze(1), tokens]
        return logits * (1.0 + past.float().unsqueeze(2))

    def reorder(self, beams: Tensor) -> None:
        self.history = self.history.gather(1, beams.unsqueeze(2).expand(-1, -1, self.history.shape[2]))

    def keep(self, sentences: Tensor) -> None:
        self.history, self.tables = self.history[sentences], self.tables[sentences]


def score_of(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probability of each token of a sequence, by the same rule, for one sentence."""
    state = TableState(logits.unsqueeze(0), beams=1)
    gains = []
    for previous, token in zip([BOS, *tokens[:-1]], tokens, strict=True):
        gains.append(float(state.step(torch.tensor([[previous]]))[0, 0].log_softmax(0)[token]))
    return gains


def best_by_trying(
    logits: Tensor, *, max_length: int, exponent: float, min_length: int, count: int
) -> list[tuple[tuple[int, ...], float]]:
    """The best sequences among all there are."""
    ordinary = [token for token in range(logits.shape[0]) if token not in (PAD, UNK, EOS, BOS)]
    every = [
        (*body, EOS) for length in range(min_length, max_length) for body in itertools.product(ordinary, repeat=length)
    ]
    every += itertools.product(ordinary, repeat=max_length)  # cut
    scored = [(tokens, sum(score_of(logits, tokens)) / math.pow((5 + len(tokens)) / 6, exponent)) for tokens in every]
    return sorted(scored, key=lambda item: -item[1])[:count]
