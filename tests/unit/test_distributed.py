"""Ranks in one process: the comparison of values, with a second rank that is simulated, and the gradient reduction."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from nmt_rela.config.loader import load_config
from nmt_rela.training import launch
from nmt_rela.training.distributed import DistributedContext, PeerLostError


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


def test_the_gradient_reduction_starts_without_a_warning() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrapped = DistributedContext(0, 1, torch.device("cpu")).data_parallel(nn.BatchNorm1d(2))
        assert not wrapped.broadcast_buffers
    finally:
        dist.destroy_process_group()


def test_a_lost_rank_is_one_line_that_says_how_to_go_on() -> None:
    with (
        pytest.raises(PeerLostError) as caught,
        DistributedContext(1, 2, torch.device("cpu")).communication_errors(),
    ):
        raise RuntimeError("gloo: [pair.cc:1] Read error [::1]:2: Connection reset by peer. Often a bug.\nat pair.cc:1")
    assert str(caught.value) == (
        "rank 1 of 2 lost contact to another rank (Connection reset by peer); the same command continues the run"
    )


def test_the_launcher_names_the_rank_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 lost contact, rank 1 was killed, rank 2 was ended by the launcher."""
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="<N/A>")
        for rank, code in enumerate((1, -9, -15))
    }

    def fail(_: object) -> None:
        raise ChildFailedError("train", failures)

    monkeypatch.setattr("torch.distributed.run.main", fail)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("logging.disable", lambda _: None)
    config = load_config("configs/demo.yaml")
    assert launch.run(config, prepare=lambda: pytest.fail("the launcher itself trains nothing")) == 1
    assert capsys.readouterr().err == (
        "nmt-train: rank 1 of 3 was ended by SIGKILL (status -9); the same command continues the run\n"
    )
