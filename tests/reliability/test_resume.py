"""A run that is stopped and continued is bitwise the run that never stopped."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt_rela.commands import train
from nmt_rela.storage.checkpoint import list_steps, load_tensors
from nmt_rela.storage.run_directory import RunDirectory
from tests.digits import write_digits

#: Dropout on, ragged epochs of about five updates, two micro-batches an update.
SETTINGS = [
    "model.dropout=0.1",
    "model.attention_dropout=0.1",
    "training.batch_tokens=512",
    "training.accumulate=2",
    "training.log_every=1",
    "training.save_every=3",
    "training.validate_every=7",
    "training.validate_sentences=2",
    "training.keep_last=3",
]
#: What time does to a record is not part of the promise.
TIMED = ("per_second", "data_wait_share")


def run_to(config: Path, update: int, *more: str) -> RunDirectory:
    run = RunDirectory(config.parent / "run")
    assert train.main(["--config", str(config), "--quiet", *SETTINGS, f"training.max_updates={update}", *more]) == 0
    return run


def contents(run: RunDirectory) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    newest = list_steps(run.checkpoints)[-1]
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    untimed = [{k: v for k, v in record.items() if not k.endswith(TIMED)} for record in records]
    return load_tensors(newest, "model"), load_tensors(newest, "training"), untimed


def assert_same(a: RunDirectory, b: RunDirectory) -> None:
    (model, training, records), (other_model, other_training, other_records) = contents(a), contents(b)
    assert model.keys() == other_model.keys()
    assert all(torch.equal(model[name], other_model[name]) for name in model)
    states, other_states = training["optimizer"]["state"], other_training["optimizer"]["state"]
    assert all(torch.equal(states[i][name], other_states[i][name]) for i in states for name in states[i])
    assert records == other_records


@pytest.fixture
def straight(tmp_path: Path) -> RunDirectory:
    (tmp_path / "straight").mkdir()
    return run_to(write_digits(tmp_path / "straight", reverse=True, pairs=300), 14)


def test_stopping_and_continuing_changes_no_bit(straight: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "halting").mkdir()
    config = write_digits(tmp_path / "halting", reverse=True, pairs=300)
    # Records at the end of a process are more frequent: it stops where nothing was due. So stop where something was.
    for update in (7, 14):
        run = run_to(config, update)
    assert_same(straight, run)


def test_a_killed_run_continues_as_if_nothing_had_happened(straight: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    config = write_digits(tmp_path / "killed", reverse=True, pairs=300)
    command = [sys.executable, "-m", "nmt_rela.commands.train", "--config", str(config), "--quiet", *SETTINGS]
    run = RunDirectory(config.parent / "run")
    process = subprocess.Popen([*command, "training.max_updates=14"])
    deadline = time.monotonic() + 120
    while not list_steps(run.checkpoints) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list_steps(run.checkpoints), "the run had saved nothing before it was killed"
    assert_same(straight, run_to(config, 14))


def test_a_damaged_newest_checkpoint_is_passed_over(
    straight: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = list_steps(straight.checkpoints)[-1] / "model.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    caplog.set_level("WARNING", logger="nmt_rela.training")
    run_to(straight.path.parent / "config.yaml", 14)
    assert "falling back to the checkpoint before it" in caplog.text
    (tmp_path / "again").mkdir()
    assert_same(straight, run_to(write_digits(tmp_path / "again", reverse=True, pairs=300), 14))


def test_a_changed_setting_that_matters_is_refused_and_named(
    straight: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p.name for p in straight.checkpoints.iterdir())
    config = straight.path.parent / "config.yaml"
    status = train.main(["--config", str(config), *SETTINGS, "training.max_updates=20", "training.learning_rate=0.001"])
    assert status == 2
    assert "training.learning_rate (0.004 → 0.001)" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(p.name for p in straight.checkpoints.iterdir()) == before


def test_fresh_moves_the_old_run_aside(straight: RunDirectory) -> None:
    run_to(straight.path.parent / "config.yaml", 3, "--fresh")
    assert [p.name for p in list_steps(straight.checkpoints)] == ["step_00000003"]
    assert list_steps(straight.path.with_name("run.old-1") / "checkpoints")


def test_sigterm_saves_and_the_run_continues(straight: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "ended").mkdir()
    config = write_digits(tmp_path / "ended", reverse=True, pairs=300)
    command = [sys.executable, "-m", "nmt_rela.commands.train", "--config", str(config), *SETTINGS]
    process = subprocess.Popen([*command, "training.max_updates=100000"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "update      2" in line:
            process.terminate()
            break
    process.communicate()
    assert process.returncode == 143
    newest = int(list_steps(RunDirectory(config.parent / "run").checkpoints)[-1].name.removeprefix("step_"))
    assert newest >= 2


@pytest.mark.slow
def test_fifty_kills_change_no_bit(tmp_path: Path) -> None:
    """At random moments, some of them inside a save: the process saves after every update."""
    updates = ["training.save_every=1", "training.validate_every=40", "training.max_updates=400"]
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = run_to(write_digits(tmp_path / "straight", reverse=True, pairs=300), 400, *updates)
    config = write_digits(tmp_path / "killed", reverse=True, pairs=300)
    command = [sys.executable, "-m", "nmt_rela.commands.train", "--config", str(config), "--quiet", *SETTINGS, *updates]
    killed, moment = RunDirectory(config.parent / "run"), random.Random(4)
    for _ in range(50):
        process = subprocess.Popen(command)
        before = len(killed.metrics.read_bytes()) if killed.metrics.exists() else 0
        while process.poll() is None and (not killed.metrics.exists() or len(killed.metrics.read_bytes()) <= before):
            time.sleep(0.002)
        time.sleep(moment.random() * 0.3)
        process.kill()
        process.wait()
    assert_same(straight, run_to(config, 400, *updates))
