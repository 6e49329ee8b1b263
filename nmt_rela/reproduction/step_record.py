"""Records of finished steps: one small JSON file per step, written atomically."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nmt_rela.utils.files import atomic_write

#: ``name``, ``command``, ``fingerprint``, ``seconds`` (of the attempt that finished) and ``finished`` (date and time).
Record = dict[str, Any]


def read_records(directory: Path) -> dict[str, Record]:
    """The intact records in a directory by the name of their step, oldest first."""
    records = []
    for path in directory.glob("*.json"):
        try:
            records.append(json.loads(path.read_bytes()))
        except ValueError:  # damaged: the step runs again
            continue
    return {record["name"]: record for record in sorted(records, key=lambda record: str(record["finished"]))}


def write_record(directory: Path, record: Record) -> None:
    """Record a step as finished."""
    file = directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', record['name'])}.json"
    with atomic_write(file) as stream:
        stream.write((json.dumps(record, indent=1) + "\n").encode("utf-8"))
