"""The same update whether its sentences come in one micro-batch, in several, or to several ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nmt_rela.commands import train
from nmt_rela.storage.checkpoint import list_steps, load_tensors
from nmt_rela.storage.run_directory import RunDirectory
from tests.digits import write_digits

#: Ten ragged pairs make one update, whatever it is cut into: an epoch is a single update then.
ONE_UPDATE = ["training.log_every=1", "training.validate_sentences=0", "training.best_by=loss", "training.warmup=1"]


def settings(config: Path, name: str, *more: str) -> list[str]:
    return ["--config", str(config), f"run={config.parent / name}", *ONE_UPDATE, *more]


def on_two_ranks(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, *map(str, options.pop("launcher", [])), "-m", "nmt_rela.commands.train", *arguments]  # type: ignore[call-overload]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options}  # type: ignore[dict-item]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def first_moments(run: Path) -> list[torch.Tensor]:
    """Adam's first moments after one update are a tenth of the gradients."""
    checkpoint = list_steps(RunDirectory(run).checkpoints)[-1]
    state = load_tensors(checkpoint, "training")["optimizer"]["state"]
    return [state[index]["exp_avg"].double() for index in sorted(state)]


@pytest.mark.parametrize("average", ["token", "sentence"])
def test_gradients_do_not_depend_on_how_an_update_is_cut(tmp_path: Path, average: str) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=10)
    common = ["training.max_updates=1", f"training.loss_average={average}", "training.batch_tokens=1024"]
    for pieces in (1, 2, 5):
        cut = [f"training.accumulate={pieces}", "--quiet"]
        assert train.main(settings(config, f"pieces{pieces}", *common, *cut)) == 0
    process = on_two_ranks(settings(config, "ranks", *common, "training.accumulate=4", "--quiet"))
    assert process.communicate(timeout=400)[1] == ""
    assert process.returncode == 0
    whole = first_moments(tmp_path / "pieces1")
    scale = max(float(gradient.abs().max()) for gradient in whole)
    for name in ("pieces2", "pieces5", "ranks"):
        for gradient, expected in zip(first_moments(tmp_path / name), whole, strict=True):
            assert float((gradient - expected).abs().max()) < 1e-6 * scale


def test_two_ranks_with_dropout_are_bitwise_one_rank(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.max_updates=4", "training.accumulate=2", "training.batch_tokens=256", "model.dropout=0.2"]
    assert train.main(settings(config, "one", *common, "--quiet")) == 0
    process = on_two_ranks(settings(config, "two", *common, "--quiet"))
    process.communicate(timeout=400)
    assert process.returncode == 0
    one, two = (load_tensors(list_steps(RunDirectory(tmp_path / n).checkpoints)[-1], "model") for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_within_a_minute(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    endless = ["training.max_updates=1000000", "training.accumulate=2", "training.batch_tokens=256"]
    process = on_two_ranks(settings(config, "run", *endless))
    assert process.stderr is not None
    for line in process.stderr:
        if "update" in line and "loss" in line:
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    start = time.monotonic()
    rest = process.communicate(timeout=60)[1]
    assert process.returncode not in (0, None)
    assert time.monotonic() - start < 60
    assert "lost touch" in rest or "SIGKILL" in rest or "Signal 9" in rest


@pytest.mark.slow
def test_under_max_restarts_a_killed_run_ends_as_if_never_killed(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.max_updates=60", "training.accumulate=2", "training.batch_tokens=256", "training.save_every=5"]
    assert train.main(settings(config, "straight", *common, "--quiet")) == 0
    process = on_two_ranks(settings(config, "killed", *common), launcher=["--max-restarts=3"])
    assert process.stderr is not None
    for line in process.stderr:
        if "update     10" in line:
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
            break
    process.communicate(timeout=400)
    assert process.returncode == 0
    final = [load_tensors(tmp_path / n / "last", "model") for n in ("straight", "killed")]
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])
