"""`make gpu-check`: no stage stops another, and everything is on disk as soon as it is known."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_check import VARIANTS, Report, Stage, plan, run_stages

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from tests.integration.documentation import check_command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/gpu_check.py"


def python(name: str, code: str, *, limit: float = 30.0, writes_json: bool = False) -> Stage:
    return Stage(name, ["-c", code], limit, writes_json=writes_json)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stages_that_fail_or_take_too_long_are_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    child = f"import subprocess; p = subprocess.Popen(['sleep', '60']); open('{tmp_path}/pid', 'w').write(str(p.pid))"
    copy = f"import sys, pathlib; pathlib.Path(sys.argv[-1]).write_bytes(open('{tmp_path}/gpu_check.json','rb').read())"
    groups = [
        [
            python("works", "print('done')"),
            python("fails", "print('why it fails'); raise SystemExit(3)"),
            python("hangs", f"{child}; p.wait()", limit=1.0),
        ],
        [python("reads the report", copy, writes_json=True)],
    ]
    report = Report(tmp_path, [stage for group in groups for stage in group], {})
    run_stages(groups, report, deadline=time.monotonic() + 60)
    entries = json.loads((tmp_path / "gpu_check.json").read_bytes())["stages"]
    expected = {"works": "passed", "fails": "failed", "hangs": "timed out", "reads the report": "passed"}
    assert {name: entry["status"] for name, entry in entries.items()} == expected
    assert (entries["fails"]["exit_status"], entries["fails"]["output"]) == (3, "why it fails\n")
    assert not is_running(int((tmp_path / "pid").read_text()))
    seen = entries["reads the report"]["result"]["stages"]  # what was on disk when the last stage ran
    assert {name: entry["status"] for name, entry in seen.items()} == {**expected, "reads the report": "not run"}
    assert "done" in (tmp_path / "gpu_check.log").read_text(encoding="utf-8")
    assert not report.passed()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_check.json", "gpu_check.log", "pid"]


def test_nothing_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    stage = python("late", "raise SystemExit(1)")
    report = Report(tmp_path, [stage], {})
    run_stages([[stage]], report, deadline=time.monotonic() + 1)
    assert report.entries["late"]["status"] == "not run"
    assert not report.passed()


@pytest.mark.slow
def test_every_stage_passes_on_a_cpu_with_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "out/gpu_check.log").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "out/gpu_check.json").read_bytes())
    names = {name for name in report["stages"] if not name.startswith(("demo", "multi30k"))}
    full = [stage.name for group in plan("cuda", tmp_path, tiny=False, multi30k=True) for stage in group]
    assert names == {name for name in full if not name.startswith(("demo", "multi30k"))}


@pytest.mark.slow
def test_the_commands_at_full_size_exist_with_their_options_and_settings(tmp_path: Path) -> None:
    assert list(ATTENTION_VARIANTS) == list(VARIANTS)
    for group in plan("cuda", tmp_path, tiny=False, multi30k=True):
        for stage in group:
            if stage.command[0].startswith("scripts/"):
                check_command(stage.command)
