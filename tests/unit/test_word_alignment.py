"""Word groups, links, Pharaoh files and AER, the last against published figures."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt_rela.metrics.word_alignment import (
    AlignmentCounts,
    GoldAlignment,
    extract_alignment,
    format_gold,
    format_pharaoh,
    link_words,
    merge_subwords,
    parse_pharaoh,
    read_gold,
    read_pharaoh,
    split_words,
    word_ids,
    words_of_subwords,
)
from nmt_rela.utils.errors import DataError


@pytest.mark.parametrize(
    ("pieces", "groups"),
    [
        (["▁Ein", "▁Hund", "e", "</s>"], (0, 1, 1, -1)),
        (["Ein", "▁Hund", "e", "</s>"], (0, 1, 1, -1)),  # the first piece has no mark
        (["▁", "Haus", "▁", "▁groß", "▁"], (0, 0, 1, 1, -1)),
        (["▁", "▁a"], (0, 0)),
        (["<s>", "ab", "c"], (-1, 0, 0)),
        (["</s>"], (-1,)),
        ([], ()),
        (["▁"], (-1,)),
    ],
)
def test_each_subword_gets_the_number_of_its_word(pieces: list[str], groups: tuple[int, ...]) -> None:
    assert word_ids(pieces) == groups


SOURCE = (0, 0, 1, -1)  # two words, the first of two pieces, and the end of sentence
TARGET = (0, 1, 1, -1)


def test_weights_are_summed_over_source_subwords_and_averaged_over_target_subwords() -> None:
    weights = np.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(merge_subwords(weights, SOURCE, TARGET), [[1.0, 2.0], [(9 + 17) / 2, 8.0]])
    with pytest.raises(ValueError, match="3 target"):
        merge_subwords(weights, SOURCE, TARGET[:3])


def test_a_target_word_is_linked_to_the_source_word_of_largest_weight() -> None:
    weights = np.array([[0.1, 0.1, 0.7, 0.1], [0.3, 0.3, 0.4, 0.0], [0.2, 0.2, 0.5, 0.1], [0.0, 0.0, 0.0, 1.0]])
    assert extract_alignment(weights, SOURCE, TARGET) == {(1, 0), (0, 1)}


def test_shifted_links_use_the_step_that_reads_the_word() -> None:
    steps = np.array([[0.0, 0.0, 0.0, 1.0], [0.9, 0.0, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert extract_alignment(steps, SOURCE, TARGET, shifted=True) == {(0, 0), (1, 1)}


def test_null_rows_and_the_end_of_sentence_give_no_link() -> None:
    weights = np.zeros((4, 4))
    weights[1, 3] = 5.0
    assert extract_alignment(weights, SOURCE, TARGET) == frozenset()
    assert extract_alignment(np.ones((1, 1)), (-1,), (-1,)) == frozenset()


def test_pharaoh_lines_are_parsed_and_formatted() -> None:
    gold = parse_pharaoh("0-0 1p2 3?4\t10-1")
    assert gold == GoldAlignment(
        sure=frozenset({(0, 0), (10, 1)}), possible=frozenset({(0, 0), (1, 2), (3, 4), (10, 1)})
    )
    assert parse_pharaoh("").possible == frozenset()
    assert format_gold(gold) == "0-0 1p2 3p4 10-1"
    assert parse_pharaoh(format_gold(gold)) == gold
    assert format_pharaoh({(10, 1), (2, 0), (2, 11)}) == "2-0 2-11 10-1"
    assert parse_pharaoh(format_pharaoh(gold.sure)).sure == gold.sure


@pytest.mark.parametrize(
    ("subwords", "words"),
    [
        ("▁ 我们 在 北京 。 </s>", [(0, 1), (0, 1), (2,), (3, 4), (5,), ()]),
        ("▁我 们用 ▁iPh one 6 和 ▁Mac 在家", [(0,), (1, 2), (3,), (3,), (3,), (4,), (5,), (6, 7)]),
        ("▁x a我 b", [(0, 1), (0, 1), (2,)]),
        ("▁der ▁Hu nd", [(0,), (1,), (1,)]),
    ],
)
def test_words_without_spaces_are_characters(subwords: str, words: list[tuple[int, ...]]) -> None:
    pieces = subwords.split()
    assert words_of_subwords(pieces, spaced=False) == words
    text = "".join(pieces).removesuffix("</s>").replace("▁", " ")
    assert len(split_words(text, spaced=False)) == 1 + max(word for found in words for word in found)


def test_a_link_of_subwords_links_all_their_words() -> None:
    weights = [[0.1, 0.9, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 1.0]]
    assert link_words(weights, [(0,), (1,), ()], [(0, 1), (2,), ()]) == {(1, 0), (1, 1), (0, 2)}


def test_reversed_links_have_source_and_target_swapped() -> None:
    assert parse_pharaoh("0-1 2p3").reversed() == parse_pharaoh("1-0 3p2")


@pytest.mark.parametrize("line", ["0", "0-", "-1", "a-b", "0-1-2", "0--1", "1-2p3", "²-1"])
def test_an_invalid_link_is_named_with_file_and_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "gold.txt"
    path.write_text(f"0-0\n1-1 {line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"gold\.txt:2: found '{line}'; accepted"):
        read_pharaoh(path)


def test_missing_and_damaged_files_raise_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        read_pharaoh(tmp_path / "absent")
    whole = gzip.compress(b"0-0\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"cut\.gz"):
        read_pharaoh(tmp_path / "cut.gz")


def test_aer_equals_the_value_computed_by_hand() -> None:
    gold = [parse_pharaoh("0-0 1p1"), parse_pharaoh("2-2")]
    scores = AlignmentCounts()
    for links, expected in zip([{(0, 0), (1, 1)}, {(0, 2)}], gold, strict=True):
        scores.add(links, expected)
    assert scores.error_rate == pytest.approx(1 - (1 + 2) / (3 + 2))
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(1 / 2)
    assert AlignmentCounts().error_rate == 1.0


def gold_of(directory: Path, *links: str, pair: tuple[str, str], **options: Any) -> list[str]:
    path = directory / "gold"
    path.write_text("\n".join(links) + "\n", "utf-8")
    normalize = [lambda text: text.replace("\xa0", " ").replace("\u200b", "")] * 2
    return [format_gold(gold) for gold in read_gold(path, [pair] * len(links), normalize, **options)]


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (
            "1-1 2-2 3-2",
            r"gold:1: a link of source word 2 and target word 2; accepted: below 3 and 2, .*; counted from 1\?",
        ),
        ("0-0 1-2", r"gold:1: .* below 3 and 2, the words of this pair \(counted from 0\); is the target word first\?"),
        ("0-0 5-9", r"gold:1: a link of source word 5 and target word 9; .*\(counted from 0\)$"),
    ],
)
def test_a_gold_link_beyond_its_pair_is_named_with_the_likely_cause(tmp_path: Path, links: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        gold_of(tmp_path, links, pair=("a b c", "d e"))


def test_gold_links_without_any_first_word_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gold_of(tmp_path, *["1-1"] * 10, pair=("a b c", "d e"))
    assert "no link has a word 0" in caplog.text


def test_gold_links_count_the_words_of_the_normalized_text(tmp_path: Path) -> None:
    pair = ("10\xa0000 \u200b Euro", "ten thousand euros")
    assert gold_of(tmp_path, "0-0 0p1 1-2 2-2", pair=pair) == ["0-0 0p1 1-0 1p1 2-2"]
    assert gold_of(tmp_path, "0-0 1p0 2-2", pair=pair, reverse=True) == ["0-0 0p1 1-0 1p1 2-2"]


@pytest.mark.parametrize(
    ("target", "links", "expanded"),
    [
        ("我们喜欢猫", "0-0 0-1 1-2 1-3 2-4", "0-0 0-1 1-2 1-3 2-4"),  # characters
        ("我们 喜欢 猫", "0-0 1-1 2-2", "0-0 0-1 1-2 1-3 2-4"),  # words of a segmented text
        ("我们 喜欢 猫", "0-0 0-1 1-2 1-3 2-4", "0-0 0-1 1-2 1-3 2-4"),  # characters of the same text
        ("我 喜欢 iPad", "0-0 1p1 2-2", "0-0 1p1 1p2 2-3"),
    ],
)
def test_gold_links_of_a_language_without_spaces_become_links_of_characters(
    tmp_path: Path, target: str, links: str, expanded: str
) -> None:
    found = gold_of(tmp_path, links, pair=("we like cats", target), spaced=(True, False))
    assert found == [expanded]


@pytest.mark.parametrize(
    ("aligner", "published"),
    [
        ("fastalign.deen", 28.5),
        ("fastalign.deen.grow-diagonal", 27.0),
        ("giza.deen", 21.0),
        ("giza.deen.grow-diagonal", 21.4),
    ],
)
def test_aligner_outputs_have_their_published_aer(gold_alignments: Path, aligner: str, published: float) -> None:
    gold = read_pharaoh(gold_alignments / "de-en_rwth/gold.0based.txt.gz")
    found = read_pharaoh(gold_alignments / f"known_answers/{aligner}.0based.txt.gz")
    assert len(gold) == 508
    counts = AlignmentCounts()
    for links, expected in zip(found, gold, strict=True):
        counts.add(links.sure, expected)
    assert 100 * counts.error_rate == pytest.approx(published, abs=0.1)
