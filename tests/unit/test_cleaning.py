"""Pairs are kept or dropped as a whole, each counted once, under a reason that is true of it."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import normalization_for, normalization_rule, normalize_romanian, repair_text
from nmt_rela.preparation.cleaning import (
    MAX_CHARACTERS,
    Cleaner,
    HashSet64,
    word_counter,
)
from nmt_rela.preparation.cleaning_stats import CleaningStats, format_stats, read_stats, write_stats
from nmt_rela.preparation.sources.readers import Pair


def clean(
    pairs: list[Pair], *, source: str = "en", target: str = "de", **options: object
) -> tuple[list[Pair], CleaningStats]:
    stats = CleaningStats()
    cleaner = Cleaner(
        DataConfig(task="none", source_language=source, target_language=target, **options)  # type: ignore[arg-type]
    )
    return [pair for chunk in cleaner.clean(pairs, stats) for pair in chunk], stats


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (None, "fields"),
        ((None, "x"), "undecodable"),
        (("x", None), "undecodable"),
        (("", "x"), "empty"),
        (("x", " \t\u3000"), "empty"),
        (("", None), "undecodable"),
        (("x" * (MAX_CHARACTERS + 1), "y"), "overlength"),
        (("a b c", "a b c"), "copy"),
        (("a b c", " a b c\x00"), "copy"),
        (("a", "b " * 10), "ratio"),
    ],
)
def test_reasons(pair: Pair, reason: str) -> None:
    kept, stats = clean([pair])
    assert kept == []
    assert stats.as_dict() == {"read": 1, "kept": 0, "dropped": {reason: 1}, "repaired": {}, "truncated": 0}


@pytest.mark.parametrize(
    "pair", [("a b", "a b"), ("a", "b " * 9), ("a", "b b b b b"), ("Paris", "Paris"), ("A b c", "a b c")]
)
def test_pairs_that_stay(pair: Pair) -> None:
    kept, stats = clean([pair])
    assert kept == [tuple(side.strip() for side in pair if side is not None)]
    assert (stats.read, stats.kept, stats.dropped) == (1, 1, {})


def test_duplicates_are_exact_pairs_across_sources() -> None:
    cleaner = Cleaner(DataConfig(task="none", source_language="en", target_language="de"))
    first, second = CleaningStats(), CleaningStats()
    kept = [*cleaner.clean([("a", "b"), ("a", "c"), ("a", "b"), (" a", "b")], first)]
    kept += cleaner.clean([("a", "c"), ("b", "c")], second)
    assert [pair for chunk in kept for pair in chunk] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (first.dropped, second.dropped) == ({"duplicate": 2}, {"duplicate": 1})


def test_long_lines_come_in_smaller_chunks() -> None:
    stats = CleaningStats()
    cleaner = Cleaner(DataConfig(task="none", source_language="en", target_language="de"))
    pairs = ((f"{n % 20:030}", "x" * 20) for n in range(40))
    chunks = list(cleaner.clean(pairs, stats, chunk_characters=100))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 3, 3, 2, *[0] * (len(chunks) - 7)]
    assert stats.dropped == {"duplicate": 20}, "also across chunks"


def test_every_test_can_be_switched_off() -> None:
    pairs: list[Pair] = [("a b c", "a b c"), ("a b c", "a b c"), ("a", "b " * 50 + "b")]
    kept, stats = clean(pairs, drop_untranslated=False, drop_duplicates=False, max_length_ratio=1000.0)
    assert kept == pairs
    assert stats.dropped == {}


def test_the_pair_boundary_is_part_of_a_duplicate() -> None:
    kept, _ = clean([("a b", "c"), ("a", "b c")])
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("text", "repaired", "reason"),
    [
        ("plain text, R&D and AT&T; a < b", "plain text, R&D and AT&T; a < b", ""),
        ("a\tb\xa0c\u2009d\u3000e", "a b c d\u3000e", ""),
        ("l&amp;apos;&#38;amp;eau", "l'&eau", "entities"),
        ("\ufeffa\u200bb\xadc&shy;", "abc", "invisible characters"),
        ("a\u200eb", "ab", "invisible characters"),
        ("e\u0301 \u1112\u1161\u11ab", "é 한", "decomposed letters"),
        ("a&amp;b &quot;c&quot; &#233; &#x1F600;", 'a&b "c" é 😀', "entities"),
        ("&nosuch; &ampx", "&nosuch; &ampx", ""),
        ("a\u2028b\u0085c\u2029", "a b c ", "separators"),
        ("a\x00\x07b\x7f", "a b ", "control characters"),
        ("a&#10;b", "a b", "control characters"),
        ("a\x0bb\x01", "a b ", "control characters"),
    ],
)
def test_repair(text: str, repaired: str, reason: str) -> None:
    assert repair_text(text) == (repaired, reason)


def configured(source: str, target: str, **options: str) -> DataConfig:
    return DataConfig(task="none", source_language=source, target_language=target, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("en", "de", "nmt_nfkc"),
        ("en", "fa", "nfkc"),
        ("hin_Deva", "ben", "nfkc"),
        ("en", "zho_Hans", "identity"),
        ("fa", "tha", "identity"),
        ("zh-Latn", "en", "nmt_nfkc"),
    ],
)
def test_a_vocabulary_is_normalized_as_gently_as_its_languages_need(source: str, target: str, rule: str) -> None:
    assert normalization_rule(source, target, data=configured(source, target)) == rule
    assert normalization_rule(source, target, data=configured(source, target, normalization="nfkc")) == "nfkc"


def test_zero_width_joiners_stay_only_where_they_spell_words() -> None:
    data = configured("en", "fa")
    persian = "می\u200cخواهم"
    assert normalization_for("fa", data)(persian) == persian
    assert normalization_for("en", data)("shelf\u200cful") == "shelfful"


def test_repaired_pairs_are_counted_once_and_only_if_kept() -> None:
    _, stats = clean([("a\x00", "b\u2028c"), ("&amp;", "x"), ("", "&amp;"), ("a", "b c")])
    assert stats.as_dict() == {
        "read": 4,
        "kept": 2,
        "dropped": {"empty": 1, "duplicate": 1},
        "repaired": {"control characters": 1, "entities": 1},
        "truncated": 0,
    }


def test_words_of_languages_without_spaces_are_characters() -> None:
    count = word_counter("zh")
    assert count("我们在2018年去了 Paris 。") == 9
    assert word_counter("en")("two words") == 2
    long_english = " ".join(["word"] * 20)
    kept, _ = clean([("这是一个没有空格的相当长的中文句子", long_english)], source="zh", target="en")
    assert len(kept) == 1


def test_romanian_letters() -> None:
    assert normalize_romanian("Şi ţară, și țară", "none") == "Şi ţară, și țară"
    assert normalize_romanian("Şi ţară, și țară", "cedilla") == "Și țară, și țară"
    assert normalize_romanian("ŞŢșț ĂÂÎ ăâî ö", "remove") == "STst AAI aai ö"
    kept, _ = clean([("ţară", "ţară")], source="ro", target="en", romanian_diacritics="remove")
    assert kept == [("tara", "ţară")]


def test_romanian_letters_may_be_written_in_two_characters() -> None:
    composed = "Și țară, înapoi, mâine, Ăsta"
    decomposed = unicodedata.normalize("NFD", composed)
    cedilla = "s\u0327i t\u0327ara\u0306"
    assert len(decomposed) > len(composed)
    assert normalize_romanian(decomposed, "none") == decomposed
    assert normalize_romanian(decomposed, "cedilla") == composed
    assert normalize_romanian(cedilla, "cedilla") == "și țară"
    assert normalize_romanian(decomposed, "remove") == "Si tara, inapoi, maine, Asta"
    assert normalize_romanian(cedilla, "remove") == "si tara"


def test_hashes_are_remembered_in_any_order() -> None:
    generator = np.random.default_rng(1)
    seen, known = HashSet64(), set()
    for size in (5, 1, 300, 2, 1000, 0, 40, 40, 40, 7000):
        hashes = generator.integers(0, 6000, size=size).astype(np.uint64)
        new = seen.add(hashes)
        for value, is_new in zip(hashes.tolist(), new.tolist(), strict=True):
            assert is_new == (value not in known)
            known.add(value)


def test_a_reason_that_has_no_place_in_the_order_is_an_error() -> None:
    stats = CleaningStats(read=1)
    stats.drop("moon phase")
    with pytest.raises(ValueError, match="tuple"):
        stats.as_dict()


def test_statistics_add_up_and_are_stored(tmp_path: Path) -> None:
    _, one = clean([("a", "b"), ("", "b"), ("a&amp;", "b")])
    two = CleaningStats(read=3, kept=1, truncated=1)
    two.drop("ratio", 2)
    path = tmp_path / "cleaning_stats.json"
    write_stats(path, {"one": one, "two": two})
    assert {name: stats.as_dict() for name, stats in read_stats(path).items()} == {
        "one": one.as_dict(),
        "two": two.as_dict(),
    }
    total = CleaningStats.sum([one, two]).as_dict()
    assert total == {
        "read": 6,
        "kept": 3,
        "dropped": {"empty": 1, "ratio": 2},
        "repaired": {"entities": 1},
        "truncated": 1,
    }
    lines = list(format_stats({"sources": {"one": one.as_dict()}, "total": total}))
    assert lines[0].endswith("2 kept; dropped: empty 1; repaired: entities 1")
    assert lines[1].endswith("3 kept; dropped: empty 1, ratio 2; repaired: entities 1; truncated: 1")


def test_a_letter_with_very_many_marks_takes_linear_time() -> None:
    start = time.process_time()
    assert repair_text("e\u0301 " + "a" + "\u0315\u0300" * 100_000)[0].startswith("é à")
    assert time.process_time() - start < 10.0  # 60 s and more as one string
