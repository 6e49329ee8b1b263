"""The demo ends with lines that can be typed and opened as they are."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from nmt_rela.commands import demo
from tests.integration.documentation import check_command


def test_the_demo_ends_with_what_to_type_and_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    (run / "analysis").mkdir(parents=True)
    for path in (run / "analysis" / "live.html", run / "analysis" / "attention.html", run / "learning_curve.png"):
        path.touch()
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/activate").touch()
    steps: list[list[str]] = []
    monkeypatch.setattr(demo, "_step", lambda command: steps.append(list(command)) or 0)
    monkeypatch.setattr(demo, "_show_examples", lambda config: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    assert demo.main([f"run_dir={run}", "--quiet"]) == 0
    assert [(step[0], "--quiet" in step) for step in steps] == [
        (f"nmt-{name}", True) for name in ("train", "average", "evaluate", "analyze")
    ]
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    activate, *commands = [shlex.split(line, comments=True) for line in lines if not line.startswith("file:")]
    assert (activate[0], Path(activate[1]).exists()) == (".", True)
    for words in commands:
        words = words[words.index("nmt-translate") :]
        check_command(words[:3])
        assert words[1:3] == ["--model", str(run)]
    opened = [line for line in lines if line.startswith("file:")]
    assert opened == [
        path.as_uri()
        for path in (run / "analysis" / "live.html", run / "analysis" / "attention.html", run / "learning_curve.png")
    ]
    assert not any(re.search(r"\s", address) for address in opened)
