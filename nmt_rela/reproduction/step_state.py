"""What has been done: a record for every finished step, and how long the others have taken so far."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt_rela.utils.files import atomic_write


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A finished step."""

    name: str
    group: str
    command: str
    #: Of the command and all it reads: another one means that the step is to be done again.
    fingerprint: str
    #: Of wall-clock time, interruptions left out.
    seconds: float
    finished: str


class Journal:
    """Records in a directory, a small file each, written whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def record(self, name: str) -> Record | None:
        """The record of a step, if it was ever finished."""
        tree = self._read(name)
        try:
            return Record(**tree)
        except TypeError:
            return None

    def records(self) -> list[Record]:
        """All records, oldest first."""
        names = sorted(self._directory.glob("*.json"))
        found = [record for path in names if (record := self.record(path.stem)) is not None]
        return sorted(found, key=lambda record: record.finished)

    def seconds_so_far(self, name: str) -> float:
        """How long earlier attempts of an unfinished step took, as far as it was noted."""
        return float(self._read(f"{name}.unfinished").get("seconds", 0.0))

    def note_unfinished(self, name: str, seconds: float) -> None:
        """Note how long a step has taken so far."""
        self._write(f"{name}.unfinished", {"seconds": seconds})

    def finish(self, name: str, *, group: str, command: str, fingerprint: str, seconds: float) -> None:
        """Record a step as done."""
        finished = time.strftime("%Y-%m-%d %H:%M:%S")
        tree = {"name": name, "group": group, "command": command, "fingerprint": fingerprint}
        self._write(name, {**tree, "seconds": round(seconds, 1), "finished": finished})
        self._file(f"{name}.unfinished").unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}.json"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            tree: dict[str, Any] = json.loads(self._file(name).read_bytes())
        except (OSError, ValueError):
            return {}
        return tree

    def _write(self, name: str, tree: dict[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._file(name)) as stream:
            stream.write((json.dumps(tree, indent=1) + "\n").encode("utf-8"))
