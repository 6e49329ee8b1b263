"""Averaging a run: in one step, of what is asked for, and the default only while it is new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nmt_rela.checkpoints import run_directory
from nmt_rela.checkpoints.checkpoint import checkpoint_name, load_state, load_tensors, write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import average
from tests.integration.small_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose checkpoint of update N holds N times the weights of the first, with scores 5, 9, 7."""
    run = write_run(tmp_path / "run")
    first = run.checkpoints / "step_1"
    first.rename(run.checkpoints / checkpoint_name(1))
    for update, score in ((1, 5.0), (2, 9.0), (3, 7.0)):
        add(run, update, score)
    return run


def add(run: RunDirectory, update: int, score: float | None) -> None:
    first = run.checkpoints / checkpoint_name(1)
    weights = {name: tensor * update for name, tensor in load_tensors(first, "model").items()}
    state = {"vocabulary": load_state(first)["vocabulary"], "validation": {"bleu": score}}
    write_checkpoint(run.checkpoints / checkpoint_name(update), tensors={"model": weights}, state=state)


def factor(run: RunDirectory) -> float:
    """By what the average's weights are longer than those of the first."""
    one, mean = (load_tensors(path, "model") for path in (run.checkpoints / checkpoint_name(1), run.path / "average"))
    name = max(one, key=lambda name: float(one[name].norm()))
    return float(torch.linalg.vector_norm(mean[name]) / torch.linalg.vector_norm(one[name]))


@pytest.mark.parametrize(
    ("which", "expected"),
    [(["--last", "2"], 2.5), (["--best", "2"], 2.5), (["--best", "1"], 2.0), (["--last", "3"], 2.0), ([], 2.0)],
)
def test_the_last_or_the_best_checkpoints_are_averaged(run: RunDirectory, which: list[str], expected: float) -> None:
    assert average.main(["--model", str(run.path), *which, "--quiet"]) == 0
    assert factor(run) == pytest.approx(expected)


def test_a_new_average_replaces_the_old_one_atomically(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert average.main(["--model", str(run.path), "--last", "2", "--quiet"]) == 0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_directory.os, "replace", killed)
        assert average.main(["--model", str(run.path), "--last", "1", "--quiet"]) == 130
    assert factor(run) == pytest.approx(2.5)
    run.load_model("average")
    assert average.main(["--model", str(run.path), "--last", "1", "--quiet"]) == 0
    assert factor(run) == pytest.approx(3.0)
    assert len(list(run.checkpoints.glob("average_*"))) == 1


def test_an_average_older_than_the_newest_checkpoint_is_not_the_default(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    assert average.main(["--model", str(run.path), "--best", "1"]) == 0
    assert run.checkpoint().name == "average"  # though what was best is not the newest
    add(run, 4, None)
    run.link_checkpoint("last", checkpoint_name(4))
    assert run.checkpoint().name == "last"
    assert "average is older than the newest checkpoint; using last" in caplog.text
    assert run.checkpoint("average").name == "average"
