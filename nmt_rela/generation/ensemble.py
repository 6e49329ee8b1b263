"""Several models that search as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmt_rela.generation.beam_search import SearchState


class EnsembleState:
    """The states of several models over the same target vocabulary, predicting the mean of their probabilities."""

    def __init__(self, states: Sequence[SearchState]) -> None:
        self._states = tuple(states)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [S, B, V] that are already log-probabilities."""
        return mean_log_probability([state.step(tokens).log_softmax(dim=2) for state in self._states])

    def reorder(self, beams: Tensor) -> None:
        for state in self._states:
            state.reorder(beams)

    def keep(self, sentences: Tensor) -> None:
        for state in self._states:
            state.keep(sentences)


def mean_log_probability(log_probabilities: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities given as logarithms, all of one shape."""
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    return torch.stack(list(log_probabilities)).logsumexp(dim=0) - math.log(len(log_probabilities))
