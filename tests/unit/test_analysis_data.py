"""The text of an analysis: read, normalized, cut, with its gold alignments."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt_rela.analysis.data import AnalysisData, read_analysis_data
from nmt_rela.data.prepared_data import EvaluationSet
from nmt_rela.metrics.word_alignment import parse_pharaoh
from nmt_rela.utils.errors import DataError

UNCHANGED = (str, str)


def write(directory: Path, name: str, lines: list[str]) -> Path:
    path = directory / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def evaluation_set(source: Path, target: Path, gold: Path | None = None) -> EvaluationSet:
    return EvaluationSet(name="text", source=source, target=target, bleu_tokenizer="zh", gold_alignments=gold)


def test_both_sides_are_normalized_and_only_the_first_pairs_kept(tmp_path: Path) -> None:
    source, target = write(tmp_path, "a", ["x", "y", "z"]), write(tmp_path, "b", ["u", "v", "w"])
    data = read_analysis_data(evaluation_set(source, target), normalize=(str.upper, str.title), sentences=2)
    assert (data.name, data.bleu_tokenizer) == ("text", "zh")
    assert data.lines == [("X", "U"), ("Y", "V")]
    assert data.gold is None


@pytest.mark.parametrize("gold_reversed", [False, True])
def test_gold_alignments_are_read_and_reversed_on_request(tmp_path: Path, gold_reversed: bool) -> None:
    source, target = write(tmp_path, "a", ["x y", "z"]), write(tmp_path, "b", ["u v", "w"])
    gold = write(tmp_path, "gold", ["0-1 1p0", "0-0"])
    files = evaluation_set(source, target, gold)
    data = read_analysis_data(files, normalize=UNCHANGED, gold_reversed=gold_reversed)
    assert data.gold == [parse_pharaoh("1-0 0p1" if gold_reversed else "0-1 1p0"), parse_pharaoh("0-0")]


def test_gold_alignments_must_cover_the_whole_text(tmp_path: Path) -> None:
    source, target = write(tmp_path, "a", ["x", "y"]), write(tmp_path, "b", ["u", "v"])
    with pytest.raises(DataError, match="1 lines of links for 2 pairs"):
        read_analysis_data(
            evaluation_set(source, target, write(tmp_path, "gold", ["0-0"])), normalize=UNCHANGED, sentences=1
        )


@pytest.mark.parametrize("link", ["2-0", "0p1"])
def test_a_gold_link_beyond_the_pair_is_refused(tmp_path: Path, link: str) -> None:
    source, target = write(tmp_path, "a", ["x", "y z"]), write(tmp_path, "b", ["u", "v"])
    gold = write(tmp_path, "gold", ["0-0", f"0-0 {link}"])
    with pytest.raises(DataError, match=rf"gold:2: a link of source word {link[0]} .* below 2 and 1"):
        read_analysis_data(evaluation_set(source, target, gold), normalize=UNCHANGED)


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    empty = write(tmp_path, "a", [])
    with pytest.raises(DataError, match="no sentence pair"):
        read_analysis_data(evaluation_set(empty, empty), normalize=UNCHANGED)


@pytest.mark.parametrize(("words", "chosen"), [([3, 30, 7, 8], 2), ([3, 30], 0)])
def test_the_heatmap_shows_the_first_sentence_of_six_to_twenty_words(words: list[int], chosen: int) -> None:
    lines = [(" ".join("a" * count), "b") for count in words]
    assert AnalysisData(name="t", lines=lines).heatmap_sentence() == chosen
    unspaced = [("b", "字" * count) for count in words]
    assert AnalysisData(name="t", lines=unspaced, spaced=(True, False)).heatmap_sentence() == chosen
