"""Stages of preparation: directories that appear whole, under names made of what they depend on.

A stage's directory is ``<name>-<fingerprint>``. The fingerprint covers its inputs, its options and the version of its
code. A stage with unchanged inputs is found again, and one with other inputs is made beside it. A kill leaves nothing
but a ``.partial`` or ``.replaced`` directory, which the next attempt deletes. ``stage.json`` in it records the size and
the SHA-256 of every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from nmt_rela.preparation.sources.task import Archive
from nmt_rela.utils.files import PARTIAL, REPLACED, atomic_directory, file_lock, sha256_of
from nmt_rela.utils.progress import format_duration

LOG = logging.getLogger(__name__)

_RECORD = "stage.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of preparation, and the directory it fills."""

    name: str
    directory: Path
    #: Everything that the result depends on, as plain values.
    inputs: Mapping[str, Any]
    #: Fills the directory it is given.
    make: Callable[[Path], None]
    #: The archives that it reads.
    reads: Sequence[Archive] = ()


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that identify plain values."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


def is_complete(directory: Path) -> bool:
    """Whether a stage is there, and every file has the size it was written with."""
    try:
        record = json.loads((directory / _RECORD).read_bytes())
        files = record["files"].items()
        return all((directory / name).stat().st_size == entry["bytes"] for name, entry in files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def damaged_file(directory: Path) -> Path | None:
    """The first file of a complete stage whose SHA-256 is not the recorded one; None where all are intact."""
    files = json.loads((directory / _RECORD).read_bytes())["files"]
    paths = ((directory / name, entry.get("sha256")) for name, entry in files.items())
    return next((path for path, digest in paths if sha256_of(path) != digest), None)


def discard_if_damaged(directory: Path) -> None:
    """Let `ensure_stage` replace a stage with a damaged file. Until then the files stay, without their record."""
    if is_complete(directory) and (path := damaged_file(directory)):
        LOG.warning("%s: damaged: its SHA-256 is not that of %s; the stage is made again", path, _RECORD)
        (directory / _RECORD).unlink()


def ensure_stage(stage: Stage) -> None:
    """Make a stage unless it is complete."""
    if is_complete(stage.directory):
        LOG.info("%s: there already (%s)", stage.name, stage.directory.name)
        return
    start = time.monotonic()
    with atomic_directory(stage.directory) as partial:
        stage.make(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        entries = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        }
        record = {"inputs": stage.inputs, "files": entries}
        (partial / _RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
    LOG.info("%s: made in %s (%s)", stage.name, format_duration(time.monotonic() - start), stage.directory.name)


def remove_partial_stages(directory: Path) -> None:
    """Delete what killed processes left in a directory of stages. The caller holds the lock of the directory."""
    for suffix in (PARTIAL, REPLACED):
        for path in directory.glob(f"*{suffix}"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def exclusive(lock: Path, *, work: str) -> Iterator[None]:
    """Let one process at a time into the block. Others wait, and log what for. A kill releases the lock."""
    with contextlib.ExitStack() as stack:
        try:
            try:
                held = file_lock(lock, wait=False)
            except Timeout:
                LOG.info("waiting for another process that %s", work)
                held = file_lock(lock)
            stack.callback(held.release)
        except (OSError, NotImplementedError) as error:
            if not lock.parent.is_dir():
                raise
            LOG.warning("%s: cannot be locked (%s); prepare data with one process at a time", lock, error)
        yield
