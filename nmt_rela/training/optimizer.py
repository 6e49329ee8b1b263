"""Adam and its learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from nmt_rela.config.schema import TrainingConfig

SCHEDULES: dict[str, Callable[[TrainingConfig, int, int], float]] = {
    # Vaswani et al. 2017, equation 3, times a factor
    "noam": lambda c, step, dimension: (
        c.learning_rate * dimension**-0.5 * min(step**-0.5, step * c.warmup_updates**-1.5)
    ),
    "inverse_sqrt": lambda c, step, _: c.learning_rate * min(step / c.warmup_updates, (c.warmup_updates / step) ** 0.5),
    "constant": lambda c, step, _: c.learning_rate * min(step / c.warmup_updates, 1.0),
}


def learning_rate(config: TrainingConfig, step: int, *, dimension: int) -> float:
    """The learning rate of the ``step``-th update, counted from 1."""
    return SCHEDULES[config.lr_schedule](config, step, dimension)


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam, decoupled from its weight decay, in one fused kernel that can skip a non-finite update on the device."""
    return torch.optim.AdamW(
        parameters,
        lr=0.0,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
