"""Several ranks do what one does; and when one of them cannot go on, none does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.checkpoints.run_lock import RunLock
from nmt_rela.commands import train
from nmt_rela.training import distributed, trainer, validation
from tests.digits import TINY, write_digits
from tests.ranks import ForkedRanks

COMMON = [
    *TINY,
    "training.log_every=1",
    "training.validation_decode_sentences=0",
    "training.checkpoint_metric=loss",
    "training.warmup_updates=1",
]
ENDLESS = ["training.max_updates=1000000", "training.accumulate=2", "training.batch_tokens=256"]


def settings(config: Path, name: str, *more: str) -> list[str]:
    return ["--config", str(config), f"run_dir={config.parent / name}", *COMMON, *more]


def launched(arguments: list[str], *options: str) -> subprocess.Popen[str]:
    """Two ranks of torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "nmt_rela.commands.train", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def newest(run: Path, stem: str) -> dict[str, Any]:
    found: dict[str, Any] = load_tensors(list_checkpoints(RunDirectory(run).checkpoints)[-1], stem)
    return found


def records(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in RunDirectory(run).metrics.read_text().splitlines()]
    timed = ("per_second", "data_wait_share")
    return [{name: value for name, value in record.items() if not name.endswith(timed)} for record in found]


def first_moments(run: Path) -> list[torch.Tensor]:
    """Adam's first moments after one update are a tenth of the gradients."""
    state = newest(run, "training")["optimizer"]["state"]
    return [state[index]["exp_avg"].double() for index in sorted(state)]


@pytest.mark.parametrize("average", ["tokens", "sentences"])
def test_gradients_do_not_depend_on_how_an_update_is_cut(tmp_path: Path, average: str) -> None:
    """Ten ragged pairs make one update, whatever it is cut into."""
    config = write_digits(tmp_path, reverse=True, pairs=10)
    common = [
        "training.max_updates=1",
        f"training.loss_normalization={average}",
        "training.batch_tokens=1024",
        "--quiet",
    ]
    for pieces in (1, 2, 5):
        assert train.main(settings(config, f"pieces{pieces}", *common, f"training.accumulate={pieces}")) == 0
    ranks = ForkedRanks(settings(config, "ranks", *common, "training.accumulate=4"), tmp_path)
    assert ranks.statuses() == [0, 0]
    assert ranks.stderr(0) == ranks.stderr(1) == ""
    whole = first_moments(tmp_path / "pieces1")
    scale = max(float(gradient.abs().max()) for gradient in whole)
    for name in ("pieces2", "pieces5", "ranks"):
        for gradient, expected in zip(first_moments(tmp_path / name), whole, strict=True):
            assert float((gradient - expected).abs().max()) < 1e-6 * scale


def test_two_ranks_with_dropout_are_bitwise_one_rank_and_may_take_over_from_it(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.accumulate=2", "training.batch_tokens=256", "model.dropout=0.2", "--quiet"]
    assert train.main(settings(config, "one", *common, "training.max_updates=6")) == 0
    assert train.main(settings(config, "two", *common, "training.max_updates=3")) == 0
    assert ForkedRanks(settings(config, "two", *common, "training.max_updates=6"), tmp_path).statuses() == [0, 0]
    one, two = (newest(tmp_path / name, "model") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [[r["loss"] for r in records(tmp_path / n) if r["event"] == "train"] for n in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_signal_to_one_rank_stops_all_and_stopping_changes_no_bit(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.accumulate=4", "training.batch_tokens=128", "model.dropout=0.2", "training.max_updates=6"]
    common += ["training.log_every=4", "training.validate_every=3", "training.validation_decode_sentences=5", "--quiet"]
    real = trainer.Trainer.step

    def signal_after(update: int, rank: int) -> None:
        def step(self: trainer.Trainer, *inputs: Any) -> None:
            real(self, *inputs)
            if self.progress.update == update and rank == 1:
                signal.raise_signal(signal.SIGTERM)

        trainer.Trainer.step = step  # type: ignore[method-assign]

    assert ForkedRanks(settings(config, "straight", *common), tmp_path).statuses() == [0, 0]
    for update in (2, 3, 6):
        stopping = settings(config, "halting", *common)
        ranks = ForkedRanks(stopping, tmp_path, prepare=lambda rank, update=update: signal_after(update, rank))  # type: ignore[misc]
        assert ranks.statuses() == [0, 143]
        assert list_checkpoints(RunDirectory(tmp_path / "halting").checkpoints)[-1].name.endswith(str(update))
    assert ForkedRanks(settings(config, "halting", *common), tmp_path).statuses() == [0, 0]
    straight, halting = (newest(tmp_path / name, "model") for name in ("straight", "halting"))
    assert all(torch.equal(straight[name], halting[name]) for name in straight)
    assert records(tmp_path / "straight") == records(tmp_path / "halting")


def test_a_rank_whose_micro_batches_are_all_empty_takes_part(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=10)
    common = ["data.max_pairs_per_source=1", "data.vocabulary_size=16", "training.max_updates=3", "--quiet"]
    assert train.main(settings(config, "one", *common, "training.accumulate=1")) == 0
    ranks = ForkedRanks(settings(config, "two", *common, "training.accumulate=2"), tmp_path)
    assert ranks.statuses(seconds=60) == [0, 0]
    one, two = (newest(tmp_path / name, "model") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_who_works_alone_is_waited_for_beyond_the_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=50)
    monkeypatch.setattr(distributed, "TIMEOUT", timedelta(seconds=2))
    real = validation.Validator.measure

    def slowly(rank: int) -> None:
        def measure(self: validation.Validator, *inputs: Any) -> validation.Validation:
            time.sleep(5 * (rank == 0))
            return real(self, *inputs)

        validation.Validator.measure = measure  # type: ignore[method-assign]

    arguments = settings(config, "run", "training.max_updates=1", "training.accumulate=2", "--quiet")
    assert ForkedRanks(arguments, tmp_path, prepare=slowly).statuses() == [0, 0]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_within_a_minute(tmp_path: Path, victim: int) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    ranks = ForkedRanks(settings(config, "run", *ENDLESS), tmp_path)
    ranks.wait_for("loss")
    ranks.kill(victim, signal.SIGKILL)
    statuses = ranks.statuses(seconds=60)
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] == 1
    assert f"nmt-train: rank {1 - victim} of 2 lost touch with the others" in ranks.stderr(1 - victim)


def test_ranks_that_have_come_apart_end_the_run(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)

    def faster(rank: int) -> None:
        if rank == 1:
            trainer.learning_rate = lambda *_, **__: 0.01  # type: ignore[assignment]

    ranks = ForkedRanks(settings(config, "run", *ENDLESS), tmp_path, prepare=faster)
    assert ranks.statuses(seconds=60) == [1, 1]
    assert "update 1: the ranks have come apart" in ranks.stderr(0)
    assert ranks.stderr(1) == ""


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=50)
    ranks = ForkedRanks(settings(config, "run", "training.accumulate=3", "--quiet"), tmp_path)
    assert ranks.statuses(seconds=60) == [2, 2]
    said = "training.accumulate: 3 micro-batches cannot be shared by 2 ranks; accepted: a multiple of 2"
    assert (ranks.stderr(0), ranks.stderr(1)) == (f"nmt-train: error: {said}\n", "")
    # On the main rank only, while the other waits.
    lock = RunLock()
    lock.acquire(tmp_path / "run" / ".lock")
    ranks = ForkedRanks(settings(config, "run", "training.accumulate=2", "--quiet"), tmp_path)
    assert ranks.statuses(seconds=60) == [2, 2]
    assert ranks.stderr(0).count("\n") == 1
    assert f"is being trained by process {os.getpid()} on" in ranks.stderr(0)
    assert ranks.stderr(1) == ""


#: ``nmt-train`` on a machine that seems to have two devices.
ON_TWO = "from nmt_rela.commands import train; train._visible_gpus = lambda _: 2; raise SystemExit(train.main())"


@pytest.mark.slow
def test_nmt_train_on_two_devices_passes_on_what_the_ranks_say(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    command = [sys.executable, "-c", ON_TWO, *settings(config, "run", "--quiet", "training.accumulate=3")]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "training.accumulate: 3 micro-batches cannot be shared by 2 ranks" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_nmt_train_on_two_devices_passes_signals_on(tmp_path: Path, number: signal.Signals) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TWO, *settings(config, "run", *ENDLESS)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "update" in line and "loss" in line:
            break
    process.send_signal(number)
    rest = process.communicate(timeout=300)[1]
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert "stopped at update" in rest
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_under_max_restarts_a_killed_run_ends_as_if_never_killed(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.max_updates=60", "training.accumulate=2", "training.batch_tokens=256", "training.save_every=5"]
    assert train.main(settings(config, "straight", *common, "--quiet")) == 0
    process = launched(settings(config, "killed", *common), "--max-restarts=3")
    assert process.stderr is not None
    for line in process.stderr:
        if "update     10" in line:
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
            break
    rest = process.communicate(timeout=600)[1]
    assert process.returncode == 0, rest
    assert "from update 10" in rest
    straight, killed = (newest(tmp_path / name, "model") for name in ("straight", "killed"))
    assert all(torch.equal(straight[name], killed[name]) for name in straight)
    assert records(tmp_path / "straight") == records(tmp_path / "killed")
