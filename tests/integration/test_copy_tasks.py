"""Every kind of attention learns to copy and to reverse, from text file to translation, through the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import train, translate
from tests.digits import write_digits


def share_right(
    directory: Path, *, reverse: bool, kind: str, updates: int, capsys: pytest.CaptureFixture[str]
) -> float:
    """The share of digits that stand where they should; a digit too many or too few is wrong."""
    config = write_digits(directory, reverse=reverse, variant=kind)
    assert train.main(["--config", str(config), "--quiet", f"training.max_updates={updates}"]) == 0
    capsys.readouterr()
    assert translate.main(["--model", str(directory / "run"), "--input", str(directory / "test.plain"), "--quiet"]) == 0
    outputs = capsys.readouterr().out.split("\n")[:-1]
    references = (directory / "test.turned").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(outputs) == len(references)
    digits = [(o.split(), r.split()) for o, r in zip(outputs, references, strict=True)]
    right = sum(a == b for output, reference in digits for a, b in zip(output, reference, strict=False))
    return right / sum(max(len(output), len(reference)) for output, reference in digits)


#: One kind without and one with a sum of 1 in the fast suite, all of them in the slow one.
KINDS_BY_COST = [
    kind if kind in ("rela-g", "entmax15") else pytest.param(kind, marks=pytest.mark.slow)
    for kind in ATTENTION_VARIANTS
]


@pytest.mark.parametrize("kind", KINDS_BY_COST)
def test_copying(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert share_right(tmp_path, reverse=False, kind=kind, updates=600, capsys=capsys) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", ATTENTION_VARIANTS)
def test_reversing(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert share_right(tmp_path, reverse=True, kind=kind, updates=1_500, capsys=capsys) > 0.99
