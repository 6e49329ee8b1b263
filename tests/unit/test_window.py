"""What a log line says of the updates since the one before."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from nmt_rela.data.data_loader import Batch
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.step_metrics import Window


@pytest.mark.parametrize(("average", "loss"), [("token", 6.0 / 10), ("sentence", 6.0 / 4)])
def test_the_loss_is_per_what_it_is_averaged_over(average: Literal["token", "sentence"], loss: float) -> None:
    window = Window(torch.device("cpu"), loss_normalization=average)
    for _ in range(2):
        batch = Batch(torch.ones(2, 3), torch.ones(2, 4), np.arange(2), source_tokens=4, target_tokens=5)
        window.add(torch.tensor(3.0), torch.tensor(5.0, dtype=torch.float64), batch)
    window.close_update(torch.tensor(1.0), torch.tensor(0.0))
    values = window.read(DistributedContext(0, 1, torch.device("cpu")))
    assert values["loss"] == loss
    assert values["perplexity"] == pytest.approx(np.e)
    assert values["sentences"] == 4
    assert values["padding_share"] == pytest.approx(1 - 18 / 28)
