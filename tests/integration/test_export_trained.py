"""A model that was trained, in both programs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from digits import write_digits

from nmt_rela.commands import train

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_export_of_a_trained_model_translates_as_it_does(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed: pip install -e '.[export]'")
    config = write_digits(tmp_path, reverse=True, variant="softmax")
    assert train.main(["--quiet", "--config", str(config), "training.max_updates=250", "training.save_every=250"]) == 0
    compare = runpy.run_path(str(REPOSITORY / "scripts/tools/check_export.py"))["compare"]
    lines = [line for name in ("test", "dev") for line in (tmp_path / f"{name}.plain").read_text("utf-8").splitlines()]
    result = compare(tmp_path / "run", lines, beam_size=4, early_stopping=True)
    assert result["lines"] == len(lines) == 200
    assert result["identical"] >= 199, result["differences"]
