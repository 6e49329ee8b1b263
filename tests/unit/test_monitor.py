"""The records of a run."""

from __future__ import annotations

import json
from pathlib import Path

from nmt_rela.storage.run_directory import RunDirectory
from nmt_rela.training.monitor import Monitor


def test_a_continued_run_forgets_later_records_and_lines_cut_off(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    lines = [json.dumps({"event": "train", "update": update}) for update in (1, 2, 3)]
    # A full disk cuts a line off, the next record lands behind it; then a kill.
    run.metrics.write_text(f"{lines[0]}\n{lines[1][:9]}{lines[1]}\n{lines[1]}\n{lines[2]}\n{lines[2][:5]}")
    Monitor(run, update=2, validated=0).close()
    assert run.metrics.read_text() == f"{lines[0]}\n{lines[1]}\n"
