"""Random bytes and text: reading never crashes, never misaligns, and says what it cannot read."""

from __future__ import annotations

import contextlib
import gzip
import html
import io
import re
import string
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from packing import archive, packed, tar_bytes

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import repair_text
from nmt_rela.preparation.cleaning import Cleaner
from nmt_rela.preparation.cleaning_stats import DROP_REASONS, CleaningStats
from nmt_rela.preparation.sources.archives import natural_order, open_member
from nmt_rela.preparation.sources.readers import read_pairs
from nmt_rela.preparation.sources.task import (
    ARCHIVE_FORMATS,
    TEXT_FORMATS,
    Archive,
    Location,
    ParallelSource,
    TextLocation,
)
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.utils.errors import ConfigError, DataError
from nmt_rela.utils.text import decode_lines, raw_lines, read_lines, write_lines

AWKWARD = "\u2028\u2029\u0085\x0b\x0c\x1c\x00\ufeff\r\t &<>;|\u3000"
line_text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n") | st.sampled_from(AWKWARD))
some_bytes = st.binary(max_size=200) | st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\xff", b"a", "é".encode(), "\u2028".encode(), b"\x00", b"\xef\xbb\xbf"])
).map(b"".join)


@given(some_bytes)
def test_as_many_lines_as_line_ends(data: bytes) -> None:
    with contextlib.suppress(DataError):  # UTF-16
        lines = list(raw_lines(io.BytesIO(data), "x"))
        assert len(lines) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
        assert len(list(decode_lines(io.BytesIO(data), "x", replace=True))) == len(lines)


@given(some_bytes)
def test_strict_reading_agrees_with_python_or_names_the_line(data: bytes) -> None:
    expected = [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    expected = expected[:-1] if data.removeprefix(b"\xef\xbb\xbf").endswith(b"\n") or not data else expected
    try:
        lines = list(decode_lines(io.BytesIO(data), "name"))
    except DataError as error:
        if "(try: " in str(error) or "binary data" in str(error):  # another encoding or line end
            assert b"\0" in data or b"\x1b" in data or b"\r" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff")
            return
        number = int(str(error).split(":")[1])
        assert "\ufffd" in expected[number - 1].decode("utf-8", "replace")
    else:
        assert [line.encode() for line in lines] == [line for line in expected if data]


@settings(max_examples=50)
@given(st.lists(line_text))
def test_what_is_written_is_read_again(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "text"
        assert write_lines(path, lines) == len(lines)
        read = list(read_lines(path))
    shown = [line.removesuffix("\r") for line in lines]
    if shown and lines[0].startswith("\ufeff"):
        shown[0] = lines[0].removeprefix("\ufeff").removesuffix("\r")
    assert read == shown


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


def read_all(
    directory: Path, format_: str, archive_format: str, data: bytes, other: bytes
) -> list[tuple[str | None, str | None]]:
    """Read bytes as an archive of that archive_format, which they may not be, in that format."""
    member = "" if ARCHIVE_FORMATS[archive_format][0] == "file" else "text"
    holders = {
        name: Archive(name=name, locations=(Location(format=archive_format, path=directory),)) for name in ("en", "de")
    }
    sides = {
        name: TextLocation(archive=holders[name if TEXT_FORMATS[format_] else "en"], member=member) for name in holders
    }
    source = ParallelSource(
        name="x", format=format_, sides=sides, columns=("de", "en") if format_ in ("tsv", "pipes") else ()
    )
    files = {
        "en": archive(directory / "en", archive_format, data),
        "de": archive(directory / "de", archive_format, other),
    }
    return list(read_pairs(source, files, ("en", "de")))


MARKUP = (
    *("<doc docid='a'>", "<doc>", "</doc>", "<seg id='1'>", "<seg>", "</seg>", "<p>", "<seg/>", "<![CDATA[", "]]>"),
    *("<tu>", "</tu>", "<tuv lang='en'>", "<tuv xml:lang='de'>", "</tuv>"),
    *("text", "&amp;", "&#10;", "&#xd800;", "\n", "<"),
)
markup = st.lists(st.sampled_from(MARKUP)).map("".join)


@settings(max_examples=150)
@given(st.sampled_from(sorted(TEXT_FORMATS)), some_bytes | markup.map(str.encode), st.booleans())
def test_random_text_gives_pairs_or_one_line(format_: str, data: bytes, same: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            pairs = read_all(Path(directory), format_, "plain", data, data if same else data + b"\nx\n")
        except DataError as error:
            one_line(error)
            is_other = "(try: " in str(error) or "binary data" in str(error)  # another encoding or line end, or no text
            assert is_other or not (same and format_ == "text"), "the same file twice is aligned"
            return
    for pair in filter(None, pairs):
        for side in pair:
            assert side is None or ("\n" not in side and side.encode("utf-8") is not None)
    if format_ == "text":
        assert len(pairs) == len(list(raw_lines(io.BytesIO(data), "x")))
        assert all(left == right for left, right in pairs)
    if format_ in ("tsv", "pipes"):
        assert len(pairs) == len(list(raw_lines(io.BytesIO(data), "x")))


def spaced(text: str) -> str:
    """As text stands in an element: runs of blanks and line ends are one space."""
    return re.sub("[ \t\r\n]+", " ", text).strip(" ")


def segments(texts: list[str]) -> str:
    return "".join(f'<seg id="{n}">{html.escape(text)}</seg>\n' for n, text in enumerate(texts, start=1))


def units(pairs: list[tuple[str, str]]) -> str:
    return "".join(
        f'<tu><tuv xml:lang="en"><seg>{html.escape(left)}</seg></tuv>'
        f'<tuv xml:lang="de"><seg>{html.escape(right)}</seg></tuv></tu>'
        for left, right in pairs
    )


def fields(pairs: list[tuple[str, str]], mark: str) -> list[str]:
    return [f"{right}{mark}{left}" for left, right in pairs]  # the columns are de, en


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(TEXT_FORMATS)),
    st.lists(st.tuples(line_text, line_text), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_pairs_written_in_any_format_are_read_again(
    format_: str, pairs: list[tuple[str, str]], end: str, mark: bool, last_end: bool
) -> None:
    """Whatever is inside a line; with and without a byte-order mark and a last line end."""
    if format_ in ("tsv", "pipes"):
        pairs = [tuple(re.sub(r"[\t|]", "", side) for side in pair) for pair in pairs]  # type: ignore[misc]
    sides = [[left for left, _ in pairs], [right for _, right in pairs]]
    lines = {
        "text": sides,
        "sgm": [[segments(side)] for side in sides],
        "tsv": [fields(pairs, "\t")] * 2,
        "pipes": [fields(pairs, " ||| ")] * 2,
        "tmx": [[units(pairs)]] * 2,
    }[format_]
    files = []
    for side in lines:
        text = end.join(side) + (end if side and (last_end or not side[-1]) else "")
        files.append(("\ufeff" if text and (mark or text[0] == "\ufeff") else "") + text)
    expected = {
        "text": lambda text: text if end == "\r\n" else text.removesuffix("\r"),
        "tsv": lambda text: text.strip(),
        "pipes": lambda text: text.strip(),
        "sgm": spaced,
        "tmx": spaced,
    }[format_]
    with tempfile.TemporaryDirectory() as directory:
        read = read_all(Path(directory), format_, "plain", *(file.encode("utf-8") for file in files))
    assert read == [(expected(left), expected(right)) for left, right in pairs]


@settings(max_examples=300)
@given(st.sampled_from(sorted(ARCHIVE_FORMATS)), st.data())
def test_damaged_archives_give_their_text_or_one_line(archive_format: str, data: st.DataObject) -> None:
    content = b"".join(b"line %d of the text\n" % number for number in range(50))
    whole = bytearray(packed(archive_format, {"text": content}))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    start, end = data.draw(st.integers(0, 3)), data.draw(st.integers(len(whole) - 40, len(whole)))
    with tempfile.TemporaryDirectory() as directory:
        files = archive(Path(directory) / "a", archive_format, bytes(whole[start:end]))
        try:
            with open_member(files, "" if ARCHIVE_FORMATS[archive_format][0] == "file" else "text") as stream:
                while stream.read(1000):
                    pass
        except DataError as error:
            one_line(error)


@settings(max_examples=150)
@given(st.sampled_from(sorted(ARCHIVE_FORMATS)), st.binary(max_size=600))
def test_random_bytes_are_no_archive(archive_format: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            read_all(Path(directory), "text", archive_format, data, data)
        except DataError as error:
            one_line(error)
        else:
            assert archive_format in ("plain", "tar", "bz2", "xz", "gz") or data == b""


@given(st.lists(st.tuples(line_text, line_text) | st.tuples(st.none(), line_text) | st.sampled_from([("a", "b")])))
def test_every_pair_is_kept_or_counted_once(pairs: list[tuple[str | None, str | None]]) -> None:
    stats = CleaningStats()
    cleaner = Cleaner(DataConfig(task="none", source_language="en", target_language="zh"))
    kept = [pair for chunk in cleaner.clean(pairs, stats) for pair in chunk]
    assert stats.read == len(pairs)
    assert stats.kept == len(kept)
    assert stats.read == stats.kept + sum(stats.dropped.values())
    assert set(stats.dropped) <= set(DROP_REASONS)
    assert len(set(kept)) == len(kept)
    for pair in kept:
        for side in pair:
            assert side == side.strip() != ""
            assert not set(side) & set("\n\r\u2028\u2029\u0085\x00")


@given(line_text)
def test_repairing_twice_changes_only_entities(text: str) -> None:
    repaired, reason = repair_text(text)
    assert reason == "" or repaired != text
    assert reason != "" or repaired.split() == text.split()  # without a name at most spaces change
    if "&" not in text:
        assert repair_text(repaired) == (repaired, "")


@given(st.lists(st.text(string.digits + "aA_.٣", max_size=6)))
def test_any_names_have_a_natural_order(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_order)) == sorted(names)


@settings(max_examples=100)
@given(st.text(st.sampled_from("{}[]:,-#&*!|>'\"%@` \n\tabc01"), max_size=80) | st.text(max_size=80))
def test_random_task_files_are_refused_in_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "task.yaml"
        path.write_text(text, "utf-8", newline="")
        try:
            load_task(str(path))
        except ConfigError as error:
            one_line(error)
        else:
            raise AssertionError("no random text is a task")


@settings(max_examples=30)
@given(st.binary(max_size=300), st.sampled_from(["tgz", "tar"]))
def test_a_hostile_tar_header_is_refused_in_one_line(noise: bytes, archive_format: str) -> None:
    data = bytearray(tar_bytes({"other": b"x" * 100, "text": b"abc"}))
    data[1024 : 1024 + len(noise)] = noise
    with tempfile.TemporaryDirectory() as directory:
        packed_data = gzip.compress(bytes(data)) if archive_format == "tgz" else bytes(data)
        files = archive(Path(directory) / "a", archive_format, packed_data)
        try:
            with open_member(files, "text") as stream:
                stream.read()
        except DataError as error:
            one_line(error)
