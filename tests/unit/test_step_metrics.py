"""What a log line says of the updates since the one before."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from nmt_rela.data.data_loader import Batch
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.step_metrics import StepMetrics


@pytest.mark.parametrize(("average", "loss"), [("tokens", 6.0 / 10), ("sentences", 6.0 / 4)])
def test_the_loss_is_per_token_or_per_sentence(average: Literal["tokens", "sentences"], loss: float) -> None:
    metrics = StepMetrics(torch.device("cpu"), loss_normalization=average)
    for _ in range(2):
        batch = Batch(
            source=torch.ones(2, 3), target=torch.ones(2, 4), target_positions=torch.arange(5), indices=np.arange(2),
            source_tokens=4, target_tokens=5, linked_tokens=4,
        )  # fmt: skip
        metrics.update(torch.tensor(3.0), torch.tensor(5.0, dtype=torch.float64), batch, torch.tensor(1.0))
    metrics.end_step(torch.tensor(1.0), torch.tensor(0.0))
    values = metrics.compute(DistributedContext(0, 1, torch.device("cpu")))
    assert values["loss"] == loss
    assert values["alignment_loss"] == 2 / 8  # per linked token, whatever the normalization
    assert values["perplexity"] == pytest.approx(np.e)
    assert values["sentences"] == 4
    assert values["padding_fraction"] == pytest.approx(1 - 18 / 28)
