"""Stages of preparation: directories that appear whole, under a name made of what they depend on.

A stage is named ``<stage>-<fingerprint>``; the fingerprint covers its inputs, its options and the version of its code.
So a stage whose inputs are unchanged is found again, one with other inputs is made beside it, and a kill leaves nothing
but a ``.partial`` directory, which the next attempt starts by deleting.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)

_RECORD = "stage.json"


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for plain values."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


def is_complete(directory: Path) -> bool:
    """Whether a stage is there, with every file of the size it was written with."""
    try:
        record = json.loads((directory / _RECORD).read_bytes())
        return all((directory / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def stage(directory: Path, inputs: Mapping[str, Any]) -> Iterator[Path]:
    """A directory to fill; it takes its final name when the block ends without an exception."""
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            _sync(path)
        record = {
            "inputs": inputs,
            "files": {path.relative_to(partial).as_posix(): path.stat().st_size for path in files},
        }
        (partial / _RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
        _sync(partial / _RECORD)
        _sync(partial)
        shutil.rmtree(directory, ignore_errors=True)  # a stage that is there but not complete
        os.replace(partial, directory)
        _sync(directory.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def exclusive(lock: Path, *, work: str) -> Iterator[None]:
    """One process at a time; others wait, and say for what. A killed process holds its lock no longer."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # a system without file locks: two preparations at once are the user's to avoid
        yield
        return
    with open(lock, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("waiting for another process that %s", work)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            LOG.warning("%s: cannot be locked (%s); prepare data with one process at a time", lock, error.strerror)
        yield


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
