"""Every format gives its pairs in order, aligned, with undecodable sides marked."""

from __future__ import annotations

import contextlib
import gzip
import time
from pathlib import Path

import pytest
from packing import archive, packed, tar_bytes

from nmt_rela.preparation.sources.readers import Pair, read_pairs
from nmt_rela.preparation.sources.task import Archive, Location, ParallelSource, TextLocation
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import MAX_LINE

LANGUAGES = ("en", "de")


def pairs_of_files(directory: Path, format_: str, left: bytes, right: bytes) -> list[Pair | None]:
    """A format with a file for each language."""
    data = tar_bytes({"x.en": left, "x.de": right})
    location = Archive(name="a", locations=(Location(format="tar", path=directory),))
    sides = {language: TextLocation(archive=location, member=f"x.{language}") for language in LANGUAGES}
    source = ParallelSource(name="mine", format=format_, sides=sides)
    return list(read_pairs(source, {"a": archive(directory / "a", "tar", data)}, LANGUAGES))


def pairs_of_file(
    directory: Path,
    format_: str,
    data: bytes,
    *,
    columns: tuple[str, ...] = (),
    languages: tuple[str, str] = LANGUAGES,
) -> list[Pair | None]:
    """A format with one file for all languages."""
    side = TextLocation(archive=Archive(name="a", locations=(Location(format="gz", path=directory),)))
    source = ParallelSource(name="mine", format=format_, sides=dict.fromkeys(languages, side), columns=columns)
    return list(read_pairs(source, {"a": archive(directory / "a", "gz", gzip.compress(data))}, languages))


def test_text_stays_aligned_whatever_is_inside_a_line(tmp_path: Path) -> None:
    left = "\ufeffa\u2028b\r\n\n\x00\x0c\nlast".encode()
    right = b"1\n2\n\xff3\n4\n"
    assert pairs_of_files(tmp_path, "text", left, right) == [
        ("a\u2028b", "1"),
        ("", "2"),
        ("\x00\x0c", None),
        ("last", "4"),
    ]


def test_unequal_line_counts_name_the_source_and_both_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source 'mine': en has 3 lines and de 1 in x\.en; accepted: as many"):
        pairs_of_files(tmp_path, "text", b"1\n2\n3", b"1\n")
    with pytest.raises(DataError, match="en has 0 lines and de 2"):
        pairs_of_files(tmp_path, "text", b"", b"1\n2\n")


def test_a_very_long_line_does_not_shift_the_next(tmp_path: Path) -> None:
    left, right = pairs_of_files(tmp_path, "text", b"x" * (3 * MAX_LINE + 5) + b"\nb\n", b"1\n2\n")
    assert (len(left[0] or ""), left[1]) == (MAX_LINE, "1")
    assert right == ("b", "2")


def test_a_cut_goes_between_characters(tmp_path: Path) -> None:
    for shift in range(4):
        line = "x" * shift + "😀" * (MAX_LINE // 4 + 9)
        ((left, _),) = pairs_of_files(tmp_path, "text", line.encode(), b"1\n")
        assert left == line[: shift + (MAX_LINE - shift) // 4], "undecodable is said of bytes that are, not of a cut"
    ((left, _),) = pairs_of_files(tmp_path, "text", b"\xff" + b"x" * (2 * MAX_LINE), b"1\n")
    assert left is None


def test_numbered_files_are_paired_in_natural_order(tmp_path: Path) -> None:
    members = {
        f"c/Book{number}_{code}.txt": f"{code}{number}\n".encode() for number in (10, 1, 2) for code in ("cn", "en")
    }
    members["c/Book1_ch.doc"] = b""
    holder = Archive(name="a", locations=(Location(format="zip", path=tmp_path),))
    source = ParallelSource(
        name="books",
        format="text",
        sides={
            "zh": TextLocation(archive=holder, member="c/*_c[hn].txt"),
            "en": TextLocation(archive=holder, member="c/*_en.txt"),
        },
    )
    files = {"a": archive(tmp_path / "a", "zip", packed("zip", members))}
    assert list(read_pairs(source, files, ("zh", "en"))) == [("cn1", "en1"), ("cn2", "en2"), ("cn10", "en10")]
    del members["c/Book2_en.txt"]
    files = {"a": archive(tmp_path / "a", "zip", packed("zip", members))}
    with pytest.raises(DataError, match=r"source 'books': 'c/\*_c\[hn\]\.txt' matches 3 members and 'c/\*_en\.txt' 2"):
        list(read_pairs(source, files, ("zh", "en")))


def test_fields_are_taken_by_the_order_of_columns(tmp_path: Path) -> None:
    data = "0.9\t eins \tone\n0.2\t\xff\tthree\n".encode("latin-1")
    assert pairs_of_file(tmp_path, "tsv", data, columns=("-", "de", "en")) == [
        ("one", "eins"),
        ("three", None),
    ]
    assert pairs_of_file(tmp_path, "pipes", b"eins ||| one\nzwei|||two", columns=("de", "en")) == [
        ("one", "eins"),
        ("two", "zwei"),
    ]


@pytest.mark.parametrize(("format_", "mark"), [("tsv", "tabs"), ("pipes", r"\|\|\|")])
def test_a_file_without_the_fields_that_columns_name(tmp_path: Path, format_: str, mark: str) -> None:
    data = b"one;eins\n" * 150
    expected = rf"source 'mine': 'columns' names 2 fields, but line 1 has 1, .*; accepted: fields with {mark} between"
    with pytest.raises(DataError, match=expected):
        pairs_of_file(tmp_path, format_, data, columns=("en", "de"))
    assert pairs_of_file(tmp_path, format_, b"", columns=("en", "de")) == []


@pytest.mark.parametrize(("format_", "mark"), [("tsv", "\t"), ("pipes", "|||")])
def test_a_row_with_too_few_or_too_many_fields_is_no_pair(tmp_path: Path, format_: str, mark: str) -> None:
    data = f"one{mark}eins\nfour\n\ntwo{mark}more{mark}zwei\nthree{mark}drei\n".encode()
    assert pairs_of_file(tmp_path, format_, data, columns=("en", "de")) == [
        ("one", "eins"), None, None, None, ("three", "drei"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("format_", ["text", "tsv", "sgm"])
def test_text_in_utf_16_is_an_error_that_names_it(tmp_path: Path, format_: str, encoding: str) -> None:
    data = "<seg>eine Zeile\tmit Wörtern</seg>\nund eine\n".encode(encoding)
    if encoding == "utf-32" or format_ != "sgm":
        data = "eine Zeile\tmit Wörtern\nund eine\n".encode(encoding)
    with pytest.raises(
        DataError, match=r"source 'mine': .*: the text is UTF-(16|32)[LB]?E?; accepted: UTF-8 \(try: iconv"
    ):
        if format_ == "tsv":
            pairs_of_file(tmp_path, format_, data, columns=("en", "de"))
        else:
            pairs_of_files(tmp_path, format_, data, data)


SGM = """<?xml version="1.0"?><!DOCTYPE x>
<srcset setid="n" srclang="any">
<DOC sysid="ref" docid="{first}" genre="news">
<hl>
<seg id="1">A &amp; B &quot;c&quot;</seg>
</hl>
<p><seg id="2"> two
 lines </seg><seg id="3">3 < 4 & more</seg>
<seg id="4">never closed
</p>
</doc>
<doc docid='{second}'>
<seg id=1></seg>
</doc>
</srcset>
"""
SEGMENTS = ['A & B "c"', "two lines", "3 < 4 & more", "never closed", ""]


def test_sgm_is_read_line_by_line_not_as_xml(tmp_path: Path) -> None:
    text = SGM.format(first="a", second="b").encode()
    assert pairs_of_files(tmp_path, "sgm", text, text) == [(text, text) for text in SEGMENTS]


def test_sgm_documents_in_another_order_are_paired_by_name(tmp_path: Path) -> None:
    left = b"<doc docid='a'><seg id=1>a1</seg></doc><doc docid='b'><seg id=1>b1</seg><seg id=2>b2</seg></doc>"
    right = b"<doc docid='b'><seg id=1>B1</seg><seg id=2>B2</seg></doc><doc docid='a'><seg id=1>A1</seg></doc>"
    assert pairs_of_files(tmp_path, "sgm", left, right) == [("a1", "A1"), ("b1", "B1"), ("b2", "B2")]
    with pytest.raises(DataError, match=r"source 'mine': x\.en has 3 segments and x\.de 1"):
        pairs_of_files(tmp_path, "sgm", left, b"<seg id=1>x</seg>")


def test_a_missing_sgm_segment_is_named(tmp_path: Path) -> None:
    left = b"<doc docid='a'><seg id=1>a1</seg></doc><doc docid='b'><seg id=1>b1</seg><seg id=2>b2</seg></doc>"
    renamed = left.replace(b"docid='b'", b"docid='c'")
    message = r"source 'mine': 2 segments of x\.en are not in x\.de, the first in document 'b' with id '1'; accepted"
    with pytest.raises(DataError, match=message):
        pairs_of_files(tmp_path, "sgm", left, renamed)
    shorter = left.replace(b"<seg id=2>b2</seg>", b"")
    with pytest.raises(DataError, match=r"1 segments of x\.de are not in x\.en, the first in document 'b' with id '2'"):
        pairs_of_files(tmp_path, "sgm", shorter, left)


def test_sgm_sets_without_common_identifiers_are_paired_by_position(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = b"<doc docid='a'><seg id=1>a1</seg></doc><doc docid='b'><seg id=1>b1</seg></doc>"
    assert pairs_of_files(tmp_path, "sgm", left, b"<seg>A1</seg><seg>B1</seg>") == [("a1", "A1"), ("b1", "B1")]
    assert "x.en and x.de have no identifier in common" in caplog.text


TMX = """<?xml version="1.0" encoding="{encoding}"?>
<tmx version="1.4"><header creationtool="x"/><body>
<tu tuid="1"><prop type="x">p</prop>
 <tuv xml:lang="EN-us"><seg>one &lt;b&gt; &amp; <bpt i="1">&lt;x&gt;</bpt>bold<ept i="1"/> <hi>high</hi></seg></tuv>
 <tuv xml:lang="de"><seg>eins
   zwei</seg></tuv></tu>
<tu><tuv lang='de'><seg><![CDATA[a < b &amp; c]]></seg></tuv><tuv lang='en'><seg/></tuv></tu>
<tu><tuv xml:lang="fr"><seg>trois</seg></tuv><tuv xml:lang="en"><seg>three</seg></tuv></tu>
</body></tmx>
"""
UNITS = [("one <b> & bold high", "eins zwei"), ("", "a < b &amp; c"), ("three", "")]


def unit(*variants: tuple[str, str]) -> str:
    return "<tu>" + "".join(f"<tuv xml:lang='{tag}'><seg>{text}</seg></tuv>" for tag, text in variants) + "</tu>"


@pytest.mark.parametrize(
    ("tags", "languages", "pair"),
    [
        (("pt-PT", "pt-BR"), ("pt-BR", "pt-PT"), ("b", "a")),
        (("PT", "pt-br"), ("por_BR", "pt-PT"), ("b", "a")),
        (("eng", "deu"), ("en", "de"), ("a", "b")),
        (("en-US", "de-AT"), ("eng", "deu"), ("a", "b")),
        (("en-GB", "en"), ("en", "en-GB"), ("b", "a")),
        (("cmn", "zh-Hant"), ("zho_Hant", "zh"), ("b", "a")),
    ],
)
def test_full_language_tags_come_first_and_then_languages(
    tmp_path: Path, tags: tuple[str, str], languages: tuple[str, str], pair: Pair
) -> None:
    data = unit((tags[0], "a"), (tags[1], "b")).encode()
    assert pairs_of_file(tmp_path, "tmx", data, languages=languages) == [pair]


def test_a_tmx_without_both_languages_names_those_that_it_has(tmp_path: Path) -> None:
    data = (unit(("pt-BR", "a"), ("fr", "b")) + unit(("fr", "c"))).encode()
    message = r"source 'mine': no unit has both pt-BR and pt-PT; found: fr \(2\), pt-br \(1\)"
    with pytest.raises(DataError, match=message):
        pairs_of_file(tmp_path, "tmx", data, languages=("pt-BR", "pt-PT"))


def test_the_encoding_that_a_tmx_declares_is_read(tmp_path: Path) -> None:
    text = "<?xml version='1.0' encoding='ISO-8859-1'?>" + unit(("en", "é"), ("de", "ß"))
    assert pairs_of_file(tmp_path, "tmx", text.encode("latin-1")) == [("é", "ß")]
    for bad in ("zlib", "nosuch"):
        with pytest.raises(DataError, match=f"declares the encoding '{bad}', which is not known; accepted: UTF-8"):
            pairs_of_file(tmp_path, "tmx", text.replace("ISO-8859-1", bad).encode())


HOSTILE = (
    "<seg ",
    "<seg>",
    "<doc ",
    "<tuv ",
    "<tu ",
    "<![CDATA[",
    "<ph>",
    "<",
    "</seg ",
    "&#",
    "&#1",
    "<tu><tuv lang='en'><",
)


@pytest.mark.parametrize("format_", ["sgm", "tmx"])
@pytest.mark.parametrize("part", HOSTILE)
def test_time_is_linear_in_hostile_markup(tmp_path: Path, format_: str, part: str) -> None:
    """A quadratic reader takes 100 times as long for 10 times the text."""

    def seconds(count: int) -> float:
        data = unit(("de", "x"), ("en", part * count)).encode()
        start = time.process_time()
        with contextlib.suppress(DataError):
            if format_ == "sgm":
                pairs_of_files(tmp_path, format_, data, data)
            else:
                pairs_of_file(tmp_path, format_, data)
        return time.process_time() - start

    assert seconds(40_000) < 35 * seconds(4_000) + 0.2


def test_a_reference_to_a_character_with_thousands_of_digits_is_undecodable(tmp_path: Path) -> None:
    data = f"<seg>&#{'1' * 5000};</seg>".encode()
    assert pairs_of_files(tmp_path, "sgm", data, data) == [(None, None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_tmx_gives_the_variants_of_both_languages(tmp_path: Path, encoding: str) -> None:
    assert pairs_of_file(tmp_path, "tmx", TMX.format(encoding=encoding).encode(encoding)) == UNITS


def test_tmx_units_may_lie_across_blocks_and_be_damaged(tmp_path: Path) -> None:
    filler = "<!-- " + "x" * (MAX_LINE - 300) + " -->"
    bad = b"<tu><tuv xml:lang='en'><seg>\xff</seg></tuv><tuv xml:lang='de'><seg>d</seg></tuv></tu>"
    data = TMX.format(encoding="utf-8").replace("<body>", "<body>" + filler).encode() + bad
    assert pairs_of_file(tmp_path, "tmx", data) == [*UNITS, (None, "d")]
    entities = b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>" + bad.replace(b"\xff", b"&b;")
    assert pairs_of_file(tmp_path, "tmx", entities) == [("&b;", "d")]


def test_a_unit_that_never_ends_is_left_out(tmp_path: Path) -> None:
    data = b"<tu>" + b"x" * (18 * MAX_LINE) + TMX.format(encoding="utf-8").encode()
    assert pairs_of_file(tmp_path, "tmx", data)[1:] == UNITS[1:]
