"""A run directory is trained by one process at a time."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from nmt_rela.checkpoints.run_lock import RunLock
from nmt_rela.utils.errors import ConfigError


def test_a_second_process_is_refused_with_the_owner_of_the_lock(tmp_path: Path) -> None:
    first, second = RunLock(), RunLock()
    first.acquire(tmp_path / "run" / ".lock")
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(ConfigError, match=rf"run_dir: .*/run is being trained by {owner}; wait for it"):
        second.acquire(tmp_path / "run" / ".lock")
    first.release()
    second.acquire(tmp_path / "run" / ".lock")
    second.release()


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    child = os.fork()
    if child == 0:
        kept = RunLock()
        kept.acquire(path)
        (tmp_path / "taken").touch()
        time.sleep(60)
        os._exit(0)
    while not (tmp_path / "taken").exists():
        time.sleep(0.01)
    lock = RunLock()
    with pytest.raises(ConfigError, match=f"process {child} on"):
        lock.acquire(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lock.acquire(path)
    lock.release()


def test_a_full_disk_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / ".lock.owner").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        RunLock().acquire(tmp_path / ".lock")
    assert raised.value.filename == str(tmp_path / ".lock.owner")
