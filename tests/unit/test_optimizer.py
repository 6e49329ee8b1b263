"""The learning-rate schedules, and the optimizer that skips non-finite gradients."""

from __future__ import annotations

import pytest
import torch

from nmt_rela.config.schema import TrainingConfig
from nmt_rela.training.optimizer import build_optimizer, learning_rate, step_unless_nonfinite


def test_noam_peaks_at_the_end_of_the_warm_up() -> None:
    config = TrainingConfig(lr_schedule="noam", learning_rate=1.0, warmup_updates=4_000)
    rates = [learning_rate(config, step, d_model=512) for step in (1, 2_000, 4_000, 16_000)]
    assert rates[2] == pytest.approx(512**-0.5 * 4_000**-0.5)
    assert rates[2] == pytest.approx(6.99e-4, rel=1e-3)  # the peak of the paper's runs
    assert rates[1] == pytest.approx(rates[2] / 2)
    assert rates[3] == pytest.approx(rates[2] / 2)
    assert rates[0] == pytest.approx(rates[2] / 4_000)


@pytest.mark.parametrize(("schedule", "late"), [("inverse_sqrt", 0.5), ("constant", 1.0)])
def test_the_other_schedules_peak_at_learning_rate(schedule: str, late: float) -> None:
    config = TrainingConfig(lr_schedule=schedule, learning_rate=0.002, warmup_updates=100)  # type: ignore[arg-type]
    assert learning_rate(config, 50, d_model=64) == pytest.approx(0.001)
    assert learning_rate(config, 100, d_model=64) == pytest.approx(0.002)
    assert learning_rate(config, 400, d_model=64) == pytest.approx(0.002 * late)


def test_linear_falls_to_zero_behind_the_last_update() -> None:
    config = TrainingConfig(lr_schedule="linear", learning_rate=0.002, warmup_updates=100, max_updates=500)
    rates = [learning_rate(config, step, d_model=64) for step in range(1, 502)]
    assert rates[49] == pytest.approx(0.001)
    assert max(rates) == rates[99] == 0.002
    assert rates[300] == pytest.approx(0.002 * 200 / 401)
    assert rates[499] == pytest.approx(0.002 / 401)  # the last update still learns
    assert rates[500] == 0


@pytest.mark.parametrize("updates", [20, 100])
def test_linear_only_warms_up_where_the_training_is_as_short(updates: int) -> None:
    config = TrainingConfig(lr_schedule="linear", learning_rate=0.002, warmup_updates=100, max_updates=updates)
    assert learning_rate(config, updates, d_model=64) == pytest.approx(0.002 * updates / 100)


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_neither_weights_nor_state(norm: float) -> None:
    """The installed torch must read ``found_inf``, which it does not document."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([weight], TrainingConfig())
    optimizer.param_groups[0]["lr"] = 0.1
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    weight.grad = torch.ones(3)
    assert step_unless_nonfinite(optimizer, scaler, torch.tensor(1.0)) == 0
    moved, state = weight.detach().clone(), {name: value.clone() for name, value in optimizer.state[weight].items()}
    assert not torch.equal(moved, torch.ones(3))
    weight.grad = torch.full((3,), float("nan"))
    assert step_unless_nonfinite(optimizer, scaler, torch.tensor(norm)) == 1
    assert torch.equal(weight, moved)
    assert all(torch.equal(optimizer.state[weight][name], value) for name, value in state.items())
    weight.grad = torch.ones(3)
    assert step_unless_nonfinite(optimizer, scaler, torch.tensor(1.0)) == 0
    assert not torch.equal(weight, moved)
