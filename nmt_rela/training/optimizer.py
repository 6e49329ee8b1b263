"""Adam, its learning-rate schedules, and a step that is skipped when gradients are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nmt_rela.checkpoints.checkpoint import describe_tensor
from nmt_rela.config.schema import TrainingConfig

LR_SCHEDULES: dict[str, Callable[[TrainingConfig, int, int], float]] = {
    # Vaswani et al. 2017, equation 3, times a factor
    "noam": lambda c, step, d_model: c.learning_rate * d_model**-0.5 * min(step**-0.5, step * c.warmup_updates**-1.5),
    "inverse_sqrt": lambda c, step, _: c.learning_rate * min(step / c.warmup_updates, (c.warmup_updates / step) ** 0.5),
    "constant": lambda c, step, _: c.learning_rate * min(step / c.warmup_updates, 1.0),
    "linear": lambda c, step, _: c.learning_rate * min(step / c.warmup_updates, _fraction_left(c, step)),
}


def _fraction_left(config: TrainingConfig, step: int) -> float:
    """1 at the end of the warm-up, 0 after ``max_updates``; 1 where the warm-up is as long as the training."""
    updates = config.max_updates + 1 - config.warmup_updates
    return max(config.max_updates + 1 - step, 0) / updates if updates > 1 else 1.0


def learning_rate(config: TrainingConfig, step: int, *, d_model: int) -> float:
    """The learning rate of the ``step``-th update, counted from 1."""
    return LR_SCHEDULES[config.lr_schedule](config, step, d_model)


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, in one fused kernel."""
    return torch.optim.AdamW(
        parameters,
        lr=0.0,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of a checkpoint; the settings stay those of the configuration.

    Raises ValueError, because the fused kernel would write beyond tensors of another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in state["state"].items():
        like = {"step": torch.zeros(()), "exp_avg": parameters[index], "exp_avg_sq": parameters[index]}
        for name in like.keys() | moments.keys():
            found, expected = describe_tensor(moments.get(name)), describe_tensor(like.get(name))
            if found != expected:
                raise ValueError(f"{name} of parameter {index} is {found}, expected {expected}")
    optimizer.load_state_dict({"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]})


def step_unless_nonfinite(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, gradient_norm: Tensor
) -> Tensor:
    """Apply the gradients unless their norm is not finite; 1 where the update was skipped, else 0.

    Nothing synchronizes with the device: fused optimizers read the attribute ``found_inf`` in their kernel and leave
    parameters and state unchanged where it is 1. torch sets this attribute itself for gradient scaling; it is not
    documented.
    """
    skipped = (~gradient_norm.isfinite()).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    return skipped
