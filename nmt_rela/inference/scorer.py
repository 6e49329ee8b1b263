"""Forced decoding: what the model thinks of a given translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmt_rela.data.vocabulary import PAD
from nmt_rela.inference.ensemble import mean_log_probability

if TYPE_CHECKING:
    from nmt_rela.model.transformer import Transformer


def forced_log_probabilities(models: Sequence[Transformer], source: Tensor, target: Tensor) -> Tensor:
    """Log-probability (nats) of every target token given those before it, 0 at padding: [B, S], [B, T] → float32 [B,
    T].

    Both sides end in EOS and are padded with PAD. Several models give the mean of their probabilities.
    """
    valid = target != PAD
    gains = []
    for model in models:
        states = model(source, model.shift(target))
        logits = model.project(states[valid]).float()  # padding costs no projection
        gains.append(logits.log_softmax(dim=1).gather(1, target[valid].unsqueeze(1)).squeeze(1))
    scores = torch.zeros(target.shape, device=target.device)
    scores[valid] = mean_log_probability(gains)
    return scores
