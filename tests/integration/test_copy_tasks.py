"""Every kind of attention learns to copy and to reverse, from text file to translation, through the real commands."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from nmt_rela.attention.kinds import KINDS
from nmt_rela.commands import train, translate
from tests.digits import write_digits


def share_right(
    directory: Path, *, reverse: bool, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> float:
    config = write_digits(directory, reverse=reverse, kind=kind)
    assert train.main(["--config", str(config), "--quiet"]) == 0
    source = (directory / "test.plain").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source), encoding="utf-8"))
    capsys.readouterr()
    assert translate.main(["--model", str(directory / "run"), "--quiet"]) == 0
    outputs = capsys.readouterr().out.split("\n")[:-1]
    references = (directory / "test.turned").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(outputs) == len(references)
    return sum(o == r for o, r in zip(outputs, references, strict=True)) / len(references)


@pytest.mark.parametrize("kind", KINDS)
def test_copying(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert share_right(tmp_path, reverse=False, kind=kind, monkeypatch=monkeypatch, capsys=capsys) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_reversing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert share_right(tmp_path, reverse=True, kind=kind, monkeypatch=monkeypatch, capsys=capsys) > 0.99
