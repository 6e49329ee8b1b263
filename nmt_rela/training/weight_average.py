"""The moving average of the weights during training."""

from __future__ import annotations

import copy

import torch

from nmt_rela.models.transformer import Transformer


class WeightAverage:
    """A second model, whose weights are a moving average of those of the trained one: float32, on the same device.

    After update t: average ← d · average + (1 − d) · weights, with d = min(decay, (1 + t) / (10 + t)), so that the
    first weights are soon forgotten.
    """

    def __init__(self, model: Transformer, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay

    def update(self, model: Transformer, update: int) -> None:
        """Take in the weights after an update, the first of which is 1."""
        decay = min(self._decay, (1 + update) / (10 + update))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
