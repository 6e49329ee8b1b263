"""Every attention variant learns to copy and to reverse, from text file to translation, through the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import train, translate
from tests.digits import write_digits


def fraction_correct(
    directory: Path, *, reverse: bool, variant: str, updates: int, capsys: pytest.CaptureFixture[str]
) -> float:
    """The fraction of digits at their correct positions; an extra or missing digit counts as wrong."""
    config = write_digits(directory, reverse=reverse, variant=variant)
    assert train.main(["--config", str(config), "--quiet", f"training.max_updates={updates}"]) == 0
    capsys.readouterr()
    assert translate.main(["--model", str(directory / "run"), "--input", str(directory / "test.plain"), "--quiet"]) == 0
    outputs = capsys.readouterr().out.split("\n")[:-1]
    references = (directory / "test.turned").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(outputs) == len(references)
    digits = [(o.split(), r.split()) for o, r in zip(outputs, references, strict=True)]
    right = sum(a == b for output, reference in digits for a, b in zip(output, reference, strict=False))
    return right / sum(max(len(output), len(reference)) for output, reference in digits)


#: The fast suite has one variant whose rows sum to 1 and one whose rows do not; the slow suite has all.
VARIANTS_BY_COST = [
    variant if variant in ("rela-g", "entmax15") else pytest.param(variant, marks=pytest.mark.slow)
    for variant in ATTENTION_VARIANTS
]


@pytest.mark.parametrize("variant", VARIANTS_BY_COST)
def test_copying(variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fraction_correct(tmp_path, reverse=False, variant=variant, updates=600, capsys=capsys) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_reversing(variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fraction_correct(tmp_path, reverse=True, variant=variant, updates=1_500, capsys=capsys) > 0.98
