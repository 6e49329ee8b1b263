"""The learning-rate schedules."""

from __future__ import annotations

import pytest

from nmt_rela.config.schema import TrainingConfig
from nmt_rela.training.optimizer import learning_rate


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
