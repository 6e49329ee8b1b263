"""A transparent scorer: the next token depends on the last one, by a table per sentence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK


def table(*, sentences: int, vocabulary: int, seed: int) -> Tensor:
    """Logits [sentences, last token, next token]."""
    return torch.randn(sentences, vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)) * 1.5


class TableState:
    """A ``StepDecoder`` on tables. It checks that the search reorders beams correctly."""

    def __init__(self, tables: Tensor, *, beams: int, memory: float = 0.1) -> None:
        self.tables, self.memory = tables, memory
        self.history = torch.zeros(len(tables), 1, 0, dtype=torch.long)
        self.rows_seen: list[int] = []

    def step(self, tokens: Tensor) -> Tensor:
        assert tokens.shape == self.history.shape[:2]
        assert (tokens == BOS).all() or self.history.shape[2] > 0
        self.history = torch.cat([self.history, tokens.unsqueeze(2)], dim=2)
        self.rows_seen.append(len(tokens))
        # The whole history has a small influence, so that a beam continued from the wrong history is found.
        past = torch.sin(self.history.double() @ torch.arange(1.0, self.history.shape[2] + 1.0).double()) * self.memory
        logits = self.tables[torch.arange(len(tokens)).unsqueeze(1), tokens]
        return logits * (1.0 + past.float().unsqueeze(2))

    def reorder(self, beams: Tensor) -> None:
        self.history = self.history.gather(1, beams.unsqueeze(2).expand(-1, -1, self.history.shape[2]))

    def select_sentences(self, sentences: Tensor) -> None:
        self.history, self.tables = self.history[sentences], self.tables[sentences]


def score_of(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probability of each token of a sequence, by the same rule, for one sentence."""
    state = TableState(logits.unsqueeze(0), beams=1)
    token_log_probs = []
    for previous, token in zip([BOS, *tokens[:-1]], tokens, strict=True):
        token_log_probs.append(float(state.step(torch.tensor([[previous]]))[0, 0].log_softmax(0)[token]))
    return token_log_probs


def best_by_trying(
    logits: Tensor, *, max_length: int, exponent: float, min_length: int, count: int
) -> list[tuple[tuple[int, ...], float]]:
    """The best sequences, by enumeration of all."""
    ordinary = [token for token in range(logits.shape[0]) if token not in (PAD, UNK, EOS, BOS)]
    every = [
        (*body, EOS) for length in range(min_length, max_length) for body in itertools.product(ordinary, repeat=length)
    ]
    every += itertools.product(ordinary, repeat=max_length)  # cut
    scored = [(tokens, sum(score_of(logits, tokens)) / math.pow((5 + len(tokens)) / 6, exponent)) for tokens in every]
    return sorted(scored, key=lambda item: -item[1])[:count]


def found_by_the_book(
    logits: Tensor, *, beams: int, max_length: int, exponent: float, min_length: int
) -> list[tuple[tuple[int, ...], float]]:
    """A beam search that ends with its ``beams``-th finished sequence, written out in plain Python as fairseq and
    CTranslate2 do it: those that end among the ``beams`` best candidates of a step count, and worse ones are dropped.
    Best first, with scores.
    """
    alive: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[tuple[tuple[int, ...], float]] = []
    while len(finished) < beams and alive:
        length = len(alive[0][0]) + 1
        candidates = []
        for tokens, total in alive:
            state = TableState(logits.unsqueeze(0), beams=1)
            for previous in (BOS, *tokens):
                token_log_probs = state.step(torch.tensor([[previous]]))[0, 0].log_softmax(0).tolist()
            for token, log_prob in enumerate(token_log_probs):
                if token not in (PAD, UNK, BOS) and (token != EOS or length > min_length):
                    candidates.append(((*tokens, token), total + log_prob))
        candidates.sort(key=lambda candidate: -candidate[1])
        alive = []
        for rank, (tokens, total) in enumerate(candidates):
            if tokens[-1] == EOS or length == max_length:
                if rank < beams:
                    finished.append((tokens, total / math.pow((5 + length) / 6, exponent)))
            elif len(alive) < beams:
                alive.append((tokens, total))
    return sorted(finished, key=lambda item: -item[1])[:beams]
