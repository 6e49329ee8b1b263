"""Checkpoints: whole or not at all, verified, harmless, averaged."""

from __future__ import annotations

import builtins
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt_rela.checkpoints.averaging import average_checkpoints
from nmt_rela.checkpoints.checkpoint import (
    checkpoint_name,
    list_checkpoints,
    load_state,
    load_tensors,
    verify_checkpoint,
    write_checkpoint,
)
from nmt_rela.utils.errors import CheckpointError


def write(path: Path, value: float = 1.0, *, shape: tuple[int, ...] = (3, 2), name: str = "w") -> Path:
    write_checkpoint(path, tensors={"model": {name: torch.full(shape, value)}}, state={"update": 5})
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "step_1")
    verify_checkpoint(path)
    assert load_state(path) == {"update": 5}
    assert torch.equal(load_tensors(path, "model")["w"], torch.ones(3, 2))
    assert [p.name for p in tmp_path.iterdir()] == ["step_1"]


def json_of(content: bytearray) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "step_1")
    for file in sorted(path.iterdir()):
        intact = file.read_bytes()
        for position in range(0, len(intact), 1 if file.suffix == ".json" else 97):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << position % 8
            file.write_bytes(damaged)
            # The manifest's own white space does not matter, and is not covered by anything.
            if file.name != "manifest.json" or json_of(damaged) != json.loads(intact):
                with pytest.raises(CheckpointError, match=r"damaged|manifest|missing"):
                    verify_checkpoint(path)
        file.write_bytes(intact)
    verify_checkpoint(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: (p / "model.pt").unlink(), "model.pt: missing"),
        (lambda p: os.truncate(p / "model.pt", 10), "10 bytes, the manifest says"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json: missing"),
        (lambda p: (p / "manifest.json").write_text('{"format_version": 99, "files": {}}'), "format 99"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], reason: str) -> None:
    path = write(tmp_path / "step_1")
    spoil(path)
    with pytest.raises(CheckpointError, match=reason):
        verify_checkpoint(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.exec, ("raise SystemExit('the bomb went off')",)


def test_a_hostile_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step_1").mkdir()
    torch.save({"w": Bomb()}, tmp_path / "step_1" / "model.pt")
    with pytest.raises(CheckpointError, match="cannot be loaded as tensors"):
        load_tensors(tmp_path / "step_1", "model")


def test_a_failure_at_any_sync_keeps_the_old_checkpoint_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "step_1", 1.0)
    calls = 0
    real_sync = os.fsync

    def counting(limit: int) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise OSError(28, "No space left on device")
            real_sync(descriptor)

        return sync

    failures = 0
    for limit in range(1, 20):
        calls = 0
        monkeypatch.setattr(os, "fsync", counting(limit))
        try:
            write(tmp_path / "step_1", 2.0)
        except OSError:
            failures += 1
            monkeypatch.setattr(os, "fsync", real_sync)
            verify_checkpoint(path)
            assert float(load_tensors(path, "model")["w"][0, 0]) in (1.0, 2.0)
            assert [p.name for p in tmp_path.iterdir()] == ["step_1"]
        else:
            break
    assert failures >= 4
    assert float(load_tensors(path, "model")["w"][0, 0]) == 2.0


def test_a_failed_write_restores_the_checkpoint_that_a_kill_had_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "step_1", 1.0).rename(tmp_path / "step_1.replaced")
    real_replace = os.replace

    def replace(old: Path, new: Path) -> None:
        if old.name == "step_1.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        real_replace(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "step_1", 2.0)
    verify_checkpoint(tmp_path / "step_1")
    assert float(load_tensors(tmp_path / "step_1", "model")["w"][0, 0]) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_steps_are_listed_oldest_first_without_leftovers(tmp_path: Path) -> None:
    names = [checkpoint_name(update) for update in (30, 200, 1_000_000_000)]
    for name in (*reversed(names), "step_5.partial", "other"):
        (tmp_path / name).mkdir()
    assert [p.name for p in list_checkpoints(tmp_path)] == names
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_the_average_is_the_arithmetic_mean_and_keeps_tied_parameters_tied(tmp_path: Path) -> None:
    paths = []
    for value in (1.0, 2.0, 6.0):
        shared = torch.full((2,), value)
        path = tmp_path / checkpoint_name(int(value))
        write_checkpoint(path, tensors={"model": {"a": shared, "b": shared}}, state={})
        paths.append(path)
    mean = average_checkpoints(paths)
    assert torch.equal(mean["a"], torch.full((2,), 3.0))
    assert mean["a"].data_ptr() == mean["b"].data_ptr()


def test_models_that_do_not_match_are_not_averaged(tmp_path: Path) -> None:
    first = write(tmp_path / "step_1")
    with pytest.raises(CheckpointError, match=r"parameter w is \[2\], in step_1 it is \[3, 2\]"):
        average_checkpoints([first, write(tmp_path / "step_2", shape=(2,))])
    with pytest.raises(CheckpointError, match="is not in both"):
        average_checkpoints([first, write(tmp_path / "step_3", name="other")])


def test_a_failed_write_is_an_os_error_also_when_the_archive_complains_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(content: Any, file: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:  # as torch's archive does on leaving, where nothing that is buffered fails again
            raise RuntimeError("unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
