"""Records of finished steps: one small file per step, written atomically."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nmt_rela.utils.files import atomic_write


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """A finished step."""

    name: str
    command: str
    #: Fingerprint of the command and of all that it reads. If it changes, the step must run again.
    fingerprint: str
    #: Wall-clock time of the attempt that finished.
    seconds: float
    finished: str


class StepRecords:
    """The records in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, name: str) -> StepRecord | None:
        """The record of a step, if the step has finished and its record is intact."""
        return _read(self._file(name))

    def all(self) -> list[StepRecord]:
        """All records, oldest first."""
        found = [record for path in self._directory.glob("*.json") if (record := _read(path)) is not None]
        return sorted(found, key=lambda record: record.finished)

    def add(self, name: str, *, command: str, fingerprint: str, seconds: float) -> None:
        """Record a step as finished."""
        record = StepRecord(
            name=name, command=command, fingerprint=fingerprint, seconds=round(seconds, 1),
            finished=time.strftime("%Y-%m-%d %H:%M:%S"),
        )  # fmt: skip
        with atomic_write(self._file(name)) as stream:
            stream.write((json.dumps(asdict(record), indent=1) + "\n").encode("utf-8"))

    def _file(self, name: str) -> Path:
        return self._directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}.json"


def _read(path: Path) -> StepRecord | None:
    try:
        return StepRecord(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
