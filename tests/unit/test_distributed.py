"""The comparison of values among ranks, with a second rank that is simulated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt_rela.training.distributed import DistributedContext


@pytest.mark.parametrize(
    ("mine", "other", "differ"),
    [
        (2.0, 2.0, False),
        (2.0, 2.0 * (1 + 1e-9), False),
        (2.0, 2.1, True),
        (math.nan, math.nan, False),
        (math.nan, 2.0, True),
        (2.0, math.inf, True),
    ],
)
def test_every_rank_takes_part_in_the_comparison(
    mine: float, other: float, differ: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reductions = []

    def with_the_other(tensor: Tensor, **_: Any) -> None:
        reductions.append(tensor)
        theirs = other if math.isfinite(other) else math.inf
        tensor.copy_(torch.maximum(tensor, torch.tensor([theirs, -theirs], dtype=tensor.dtype)))

    monkeypatch.setattr(torch.distributed, "all_reduce", with_the_other)
    assert DistributedContext(0, 2, torch.device("cpu")).has_diverged(mine) is differ
    assert len(reductions) == 1
