"""Several models that decode as one, by the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmt_rela.generation.decoding_step import StepDecoder


class EnsembleDecoder:
    """The decoders of several models with the same target vocabulary."""

    def __init__(self, decoders: Sequence[StepDecoder]) -> None:
        self._decoders = tuple(decoders)

    def step(self, tokens: Tensor) -> Tensor:
        """Log-probabilities [S, B, V], which are logits too."""
        return mean_log_probs([decoder.step(tokens).float().log_softmax(dim=2) for decoder in self._decoders])

    def reorder(self, beam_indices: Tensor) -> None:
        for decoder in self._decoders:
            decoder.reorder(beam_indices)

    def select_sentences(self, indices: Tensor) -> None:
        for decoder in self._decoders:
            decoder.select_sentences(indices)


def mean_log_probs(log_probs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities. The log-probabilities of each model have the same shape."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(list(log_probs)).logsumexp(dim=0) - math.log(len(log_probs))
