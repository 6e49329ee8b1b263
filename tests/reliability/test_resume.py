"""A run that is stopped or killed, and continued, is bitwise the run that never stopped."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import train
from nmt_rela.data import subword_regularization
from tests.digits import TINY, write_digits
from tests.ranks import ForkedRanks

UPDATES = 14
#: Dropout on, ragged epochs of a few updates, several micro-batches per update; events fall on different updates.
SETTINGS = [
    *TINY,
    "model.dropout=0.1",
    "model.attention_dropout=0.1",
    "training.update_tokens=1024",
    "training.max_batch_tokens=1024",
    "training.log_every=4",
    "training.save_every=3",
    "training.validate_every=7",
    "training.validation_decode_sentences=2",
    "training.keep_last_checkpoints=3",
    "training.checkpoint_metric=ter",
]
#: What time does to a record is not part of the promise.
TIMED = ("per_second", "data_wait_fraction", "time", "elapsed")


def run_to(config: Path, update: int, *more: str, status: int = 0) -> RunDirectory:
    arguments = ["--config", str(config), "--quiet", *SETTINGS, f"training.max_updates={update}", *more]
    assert train.main(arguments) == status
    return RunDirectory(config.parent / "run")


def prepare(folder: Path) -> Path:
    folder.mkdir()
    return write_digits(folder, reverse=True, pairs=300, links=True)


def contents(run: RunDirectory) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    newest = list_checkpoints(run.checkpoints)[-1]
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    untimed = [{k: v for k, v in record.items() if not k.endswith(TIMED)} for record in records]
    return load_tensors(newest, "model"), load_tensors(newest, "training"), untimed


def assert_same(a: RunDirectory, b: RunDirectory) -> None:
    (model, training, records), (other_model, other_training, other_records) = contents(a), contents(b)
    assert records == other_records
    assert model.keys() == other_model.keys()
    assert all(torch.equal(model[name], other_model[name]) for name in model)
    states, other_states = training["optimizer"]["state"], other_training["optimizer"]["state"]
    assert states.keys() == other_states.keys()
    assert all(torch.equal(states[i][name], other_states[i][name]) for i in states for name in states[i])
    assert a.checkpoint("best").resolve().name == b.checkpoint("best").resolve().name


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The run that never stopped; not to be changed."""
    run = run_to(prepare(tmp_path_factory.mktemp("straight") / "it"), UPDATES)
    _, _, records = contents(run)
    assert [r["update"] for r in records if r["event"] == "train"] == [3, 4, 6, 7, 8, 9, 12, 14]
    assert [r["update"] for r in records if r["event"] == "validation"] == [7, 14]
    assert records[-2]["epoch"] >= 2
    return run


@pytest.fixture
def ended(straight: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of it."""
    shutil.copytree(straight.path, tmp_path / "ended", symlinks=True)
    return RunDirectory(tmp_path / "ended")


def go_on(run: RunDirectory, straight: RunDirectory, update: int, *more: str, status: int = 0) -> None:
    run_to(straight.path.parent / "config.yaml", update, f"run_dir={run.path}", *more, status=status)


@pytest.fixture
def stopping() -> Iterator[dict[int, signal.Signals]]:
    """Signals that come in updates, counted from 1 over all runs of the test. Then signals act as before."""
    at: dict[int, signal.Signals] = {}
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    updates = itertools.count(1)

    def after_step(*_: Any) -> None:
        if (number := at.get(next(updates))) is not None:
            signal.raise_signal(number)

    hook = register_optimizer_step_post_hook(after_step)
    yield at
    hook.remove()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_stopping_after_every_single_update_changes_no_bit(
    straight: RunDirectory, tmp_path: Path, stopping: dict[int, signal.Signals]
) -> None:
    """Within log windows, at the ends of epochs, where a validation or a save is due, at the very end."""
    config = prepare(tmp_path / "halting")
    signals_and_codes = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
    for update in range(1, UPDATES + 1):
        number, status = signals_and_codes[update % 3]
        stopping[update] = number
        run = run_to(config, UPDATES, status=status)
        assert list_checkpoints(run.checkpoints)[-1].name.endswith(f"{update:03d}")
    assert_same(straight, run_to(config, UPDATES))


def test_time_that_runs_out_on_a_validation_changes_no_bit(
    straight: RunDirectory, tmp_path: Path, stopping: dict[int, signal.Signals]
) -> None:
    config = prepare(tmp_path / "short")
    stopping[6] = signal.SIGTERM
    run_to(config, UPDATES, status=143)
    run_to(config, UPDATES, "training.max_hours=1e-9")  # one update more, the seventh
    assert_same(straight, run_to(config, UPDATES))


def test_a_killed_run_ends_like_an_uninterrupted_one(straight: RunDirectory, tmp_path: Path) -> None:
    config = prepare(tmp_path / "killed")
    assert kill_after(config, records=2, seconds=0.0)  # those of updates 3 and 4: one checkpoint is there
    assert_same(straight, run_to(config, UPDATES))


def kill_after(config: Path, *, records: int, seconds: float, settings: tuple[str, ...] = (), ranks: int = 1) -> bool:
    """Train in other processes and kill them ``seconds`` after ``records`` more records; whether they still ran."""
    metrics = config.parent / "run" / "metrics.jsonl"
    wanted = records + (metrics.read_bytes().count(b"\n") if metrics.exists() else 0)
    arguments = ["--config", str(config), "--quiet", *SETTINGS, f"training.max_updates={UPDATES}", *settings]
    processes = ForkedRanks(arguments, config.parent, size=ranks)
    end = time.monotonic() + 300
    while time.monotonic() < end and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= wanted):
        time.sleep(0.002)
    time.sleep(seconds)
    for rank in range(ranks):
        processes.kill(rank, signal.SIGKILL)
    return processes.statuses() == [-signal.SIGKILL] * ranks


def test_a_damaged_newest_checkpoint_is_skipped(
    straight: RunDirectory, ended: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = list_checkpoints(ended.checkpoints)[-1] / "model.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    caplog.set_level("WARNING", logger="nmt_rela")
    go_on(ended, straight, UPDATES)
    assert "using the checkpoint before it" in caplog.text
    assert_same(straight, ended)


def test_a_changed_setting_that_matters_is_refused_and_named(
    ended: RunDirectory, straight: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p.name for p in ended.checkpoints.iterdir())
    go_on(ended, straight, 20, "training.learning_rate=0.001", status=2)
    assert "training.learning_rate (0.004 → 0.001)" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(p.name for p in ended.checkpoints.iterdir()) == before


def test_restart_moves_the_old_run_aside(ended: RunDirectory, straight: RunDirectory) -> None:
    go_on(ended, straight, 3, "--restart")
    assert [p.name for p in list_checkpoints(ended.checkpoints)] == ["step_00000003"]
    assert list_checkpoints(ended.path.with_name("ended.old-1") / "checkpoints")


#: Every epoch has pairs and segmentations of its own, and there are two sets of weights.
CHANGING = (
    "data.vocabulary_size=60",
    "data.subword_regularization={source: 0.3, target: 0.1}",
    "data.weights.train=0.7",
    "training.ema_decay=0.9",
    "training.guided_alignment.weight=0.1",
)


def test_regularized_weighted_averaged_training_continues_bitwise(
    tmp_path: Path, stopping: dict[int, signal.Signals]
) -> None:
    straight = run_to(prepare(tmp_path / "straight"), UPDATES, *CHANGING)
    _, training, records = contents(straight)
    epochs = [record for record in records if record["event"] == "epoch"]
    assert len(epochs) > 2
    assert all(record["pairs/train"] == 210 for record in epochs)
    assert not straight.epochs.exists()
    config = prepare(tmp_path / "halting")
    for update in (4, 9):
        stopping[UPDATES + update] = signal.SIGTERM
        run = run_to(config, UPDATES, *CHANGING, status=143)
        assert run.epochs.is_dir()
    assert_same(straight, run_to(config, UPDATES, *CHANGING))
    assert training["weights"].keys() == contents(run)[1]["weights"].keys()


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize("all_processes", [False, True])
def test_a_stop_while_segmentations_are_awaited_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_processes: bool
) -> None:
    """Slurm sends the signal to the process that writes them too, and a training may wait for it for long."""
    config, popen = prepare(tmp_path / "it"), subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        if subword_regularization.__name__ not in command:
            return popen(command, **options)
        process = popen(["sleep", "60"], **options)
        os.kill(os.getpid(), signal.SIGTERM)
        if all_processes:
            process.terminate()
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    run = run_to(config, UPDATES, *CHANGING, status=143)
    assert list_checkpoints(run.checkpoints) == []
    monkeypatch.undo()
    assert list_checkpoints(run_to(config, 1, *CHANGING).checkpoints)


@pytest.mark.slow
def test_ten_kills_of_regularized_training_change_no_bit(tmp_path: Path) -> None:
    def run_to_the_end(config: Path, ranks: int) -> RunDirectory:
        arguments = ["--config", str(config), "--quiet", *SETTINGS, *CHANGING, *long]
        assert ForkedRanks(arguments, config.parent, size=ranks).statuses() == [0] * ranks
        return RunDirectory(config.parent / "run")

    long = ("training.max_updates=60", "training.save_every=1", "training.log_every=1", "training.validate_every=60")
    straight = run_to_the_end(prepare(tmp_path / "straight"), 1)
    config, random_ = prepare(tmp_path / "killed"), random.Random(4)
    for _ in range(10):
        kill_after(config, records=random_.randint(1, 4), seconds=0.04 * random_.random(), settings=(*CHANGING, *long))
    assert_same(straight, run_to_the_end(config, 1))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_fifty_kills_change_no_bit(tmp_path: Path, ranks: int) -> None:
    """At random moments, many of them inside a save: the process saves after every update."""
    settings = (
        "training.max_updates=300",
        "training.save_every=1",
        "training.log_every=1",
        "training.validate_every=60",
    )

    def run_to_the_end(config: Path) -> RunDirectory:
        arguments = ["--config", str(config), "--quiet", *SETTINGS, *settings]
        assert ForkedRanks(arguments, config.parent, size=ranks).statuses() == [0] * ranks
        return RunDirectory(config.parent / "run")

    straight = run_to_the_end(prepare(tmp_path / "straight"))
    config, random_ = prepare(tmp_path / "killed"), random.Random(4)
    in_a_save = 0
    for _ in range(50):
        records, seconds = random_.randint(1, 4), 0.04 * random_.random()
        assert kill_after(config, records=records, seconds=seconds, settings=settings, ranks=ranks), (
            "it ended before the last kill"
        )
        in_a_save += any((config.parent / "run" / "checkpoints").glob("step_*.partial"))
    assert in_a_save >= 5  # what such a kill leaves, until the next start
    assert_same(straight, run_to_the_end(config))
