"""A disk that is full costs a run its newest checkpoint, never its progress or the checkpoints before."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_tensors, verify_checkpoint
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import train
from tests.digits import TINY, write_digits

SETTINGS = [
    "training.max_updates=6",
    "training.save_every=2",
    "training.validate_every=6",
    "training.update_tokens=512",
]
SETTINGS += [
    "training.validation_decode_sentences=0",
    "training.checkpoint_metric=loss",
    "--quiet",
    *TINY,
]


def run(folder: Path, *, status: int = 0) -> RunDirectory:
    folder.mkdir()
    assert train.main(["--config", str(write_digits(folder, reverse=True, pairs=100)), *SETTINGS]) == status
    return RunDirectory(folder / "run")


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run(tmp_path_factory.mktemp("free") / "run")


class FullDisk:
    """Every write of the checkpoint of one update fails from the n-th on, as on a disk that has filled up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, update: int, failing: int) -> None:
        self._is_saving, self._writes, self._failing = False, 0, failing
        real_save, real_sync, manager_save = torch.save, os.fsync, CheckpointManager.save

        def fail_if_full() -> None:
            self._writes += self._is_saving
            if self._is_saving and self._writes >= self._failing:
                raise OSError(errno.ENOSPC, "No space left on device")

        def save(content: Any, file: Any) -> None:
            fail_if_full()
            real_save(content, file)

        def sync(descriptor: int) -> None:
            fail_if_full()
            real_sync(descriptor)

        def watch(manager: CheckpointManager, **what: Any) -> bool:
            self._is_saving = what["update"] == update
            is_saved = manager_save(manager, **what)
            self._is_saving = False
            return is_saved

        monkeypatch.setattr(torch, "save", save)
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(CheckpointManager, "save", watch)


@pytest.mark.parametrize("failing", range(1, 7))
def test_training_continues_and_ends_with_the_same_weights(
    failing: int, free: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        FullDisk(patch, update=4, failing=failing)
        caplog.set_level("WARNING", logger="nmt_rela")
        hindered = run(tmp_path / "hindered")
    assert "checkpoint of update 4 could not be written" in caplog.text
    assert [p.name for p in hindered.checkpoints.iterdir() if p.name.endswith("4")] == []
    assert [p.name[-1] for p in list_checkpoints(hindered.checkpoints)] == ["2", "6"]
    weights = [load_tensors(r.checkpoint("last"), "model") for r in (hindered, free)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_on_a_full_disk_the_last_checkpoint_remains_and_the_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FullDisk(monkeypatch, update=6, failing=1)
    stopped = run(tmp_path / "stopped", status=2)
    assert "update 6 is not saved" in capsys.readouterr().err.splitlines()[-1]
    assert stopped.checkpoint("last").resolve().name == "step_00000004"
    verify_checkpoint(stopped.checkpoint("last"))
