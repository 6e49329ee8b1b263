"""A toy run, and nmt-translate on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_translator import toy_run
from translating import Translate


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("runs") / "toy")


@pytest.fixture
def translated(
    run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Translate:
    return Translate(run, tmp_path / "input", capfdbinary, monkeypatch)
