"""Confidence and significance: sacreBLEU's bootstrap, told plainly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools import significance

from nmt_rela.metrics.bleu import compute_scores

REFERENCE = [
    f"the {colour} cat number {number} sleeps near the house ." for number in range(20) for colour in ("old", "red")
]
GOOD = [line.replace("near", "by") if place % 5 == 0 else line for place, line in enumerate(REFERENCE)]
BAD = [line.replace("cat", "dog").replace("near the", "in a") for line in REFERENCE]


def test_scores_are_those_of_the_evaluation() -> None:
    rows = significance.compare([("good", GOOD), ("bad", BAD)], REFERENCE, samples=50)
    for row, lines in zip(rows, (GOOD, BAD), strict=True):
        scores = compute_scores(lines, REFERENCE)
        assert (row["bleu"]["score"], row["chrf"]["score"]) == (scores.bleu, scores.chrf)
        assert row["bleu"]["low"] - 0.01 <= row["bleu"]["score"] <= row["bleu"]["high"] + 0.01


def test_a_large_difference_is_significant_and_none_is_not() -> None:
    rows = significance.compare([("good", GOOD), ("bad", BAD), ("same", GOOD)], REFERENCE, samples=100)
    first, worse, same = (row["bleu"]["p"] for row in rows)
    assert first is None
    assert worse < 0.05
    assert same == 1.0


def test_one_system_has_an_interval_and_nothing_to_compare() -> None:
    (row,) = significance.compare([("good", GOOD)], REFERENCE, samples=50)
    assert row["bleu"]["low"] < row["bleu"]["high"]
    assert row["bleu"]["p"] is None


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lines in (("ref", REFERENCE), ("good", GOOD), ("bad", BAD), ("short", BAD[:-1])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = ["--reference", str(tmp_path / "ref"), "--system", f"good={tmp_path / 'good'}", "--samples", "20"]
    figures = tmp_path / "figures.json"
    assert significance.main([*words, "--system", f"bad={tmp_path / 'bad'}", "--json", str(figures)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["system", "good", "bad"]
    assert [row["system"] for row in json.loads(figures.read_text("utf-8"))["systems"]] == ["good", "bad"]
    assert significance.main([*words, "--system", f"short={tmp_path / 'short'}"]) == 2
    assert "short: 39 translations for 40 references" in capsys.readouterr().err
