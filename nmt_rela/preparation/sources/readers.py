"""Readers of parallel text: a stream of pairs from each format.

A pair holds a source and a target; a side whose bytes are not UTF-8 is None. Pairs keep the order of the files, and
none is dropped: an empty line is an empty string, so that two files stay aligned.
"""

from __future__ import annotations

import codecs
import contextlib
import html
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import BinaryIO

from nmt_rela.data.languages import primary_language
from nmt_rela.preparation.sources.archives import LocalArchive, is_pattern, list_members, open_member
from nmt_rela.preparation.sources.task import ParallelSource, TextLocation
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import zip_equal

LOG = logging.getLogger(__name__)

Pair = tuple[str | None, str | None]

Languages = tuple[str, str]
Archives = Mapping[str, LocalArchive]

#: A longer line is truncated: it is no sentence, and must neither fill the memory nor shift the lines after it.
MAX_LINE = 1 << 20
#: When none of this many first lines has all fields that ``columns`` names, the task file is wrong.
_CHECKED_LINES = 100
_SEPARATORS = {"tsv": (b"\t", "tabs"), "pipes": (b"|||", "|||")}
#: Bytes of an SGM set. Sets have a few megabytes and are read whole.
MAX_DOCUMENT = 256 << 20

_UNDECODABLE = re.compile("[\ud800-\udfff]")


def read_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    """The pairs of a parallel text.

    Args:
        parallel_source: which members hold it, and in what format.
        archives: the archives that hold it, by name.
        languages: source and target language.

    Raises:
        DataError: a member is missing, or the two sides cannot be paired; the message names the parallel_source.
    """
    try:
        yield from _READERS[parallel_source.format](parallel_source, archives, languages)
    except DataError as error:
        error.args = (f"source '{parallel_source.name}': {error}",)
        raise


def _text_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    for members, streams in _paired_files(parallel_source, archives, languages):
        left, right = (map(_decoded, _lines(stream)) for stream in streams)
        yield from zip_equal(left, right, partial(_unequal_lines, languages, members[0]))


def _unequal_lines(languages: Languages, member: str, left: int, right: int) -> str:
    where = f" in {member}" if member else ""
    return f"{languages[0]} has {left:,} lines and {languages[1]} {right:,}{where}; accepted: as many on both sides"


def _paired_files(
    parallel_source: ParallelSource, archives: Archives, languages: Languages
) -> Iterator[tuple[tuple[str, ...], list[BinaryIO]]]:
    """The members and streams of each pair of files: one per side, or those of two globs in natural order."""
    sides = [parallel_source.sides[language] for language in languages]
    left, right = (_members(side, archives) for side in sides)
    if len(left) != len(right):
        raise DataError(
            f"'{sides[0].member}' matches {len(left)} members and '{sides[1].member}' {len(right)}; "
            "accepted: as many on both sides"
        )
    for members in zip(left, right, strict=True):
        with contextlib.ExitStack() as stack:
            pairs = zip(sides, members, strict=True)
            opened = [open_member(archives[side.archive.name], member) for side, member in pairs]
            yield members, [stack.enter_context(stream) for stream in opened]


def _members(side: TextLocation, archives: Archives) -> list[str]:
    return list_members(archives[side.archive.name], side.member) if is_pattern(side.member) else [side.member]


def _field_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    separator, shown = _SEPARATORS[parallel_source.format]
    columns = [parallel_source.columns.index(language) for language in languages]
    for stream in _streams(parallel_source.sides[languages[0]], archives):
        lines = _lines(stream)
        first = list(islice(lines, _CHECKED_LINES))
        if first and all(line.count(separator) < max(columns) for line in first):
            raise DataError(
                f"'columns' wants {max(columns) + 1} fields, but line 1 has {first[0].count(separator) + 1}, and "
                f"no line after it enough; accepted: fields with {shown} between them"
            )
        for line in chain(first, lines):
            fields = line.split(separator)
            left, right = (_decoded(fields[column]) if column < len(fields) else "" for column in columns)
            yield left and left.strip(), right and right.strip()


def _streams(side: TextLocation, archives: Archives) -> Iterator[BinaryIO]:
    for member in _members(side, archives):
        with open_member(archives[side.archive.name], member) as stream:
            yield stream


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends (``\\n`` or ``\\r\\n``), truncated at MAX_LINE bytes."""
    first = True
    while line := stream.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) == MAX_LINE:
            while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            line = line[: codecs.utf_8_decode(line, "replace", False)[1]]  # no partial character
        if first:
            line, first = line.removeprefix(codecs.BOM_UTF8), False
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


# NIST SGM, by regular expressions: not every published file is well-formed

_SGM = re.compile(
    r"<doc\b(?P<document>[^>]*)>"
    r"|<seg\b(?P<segment>[^>]*)>(?P<text>.*?)(?:</seg\s*>|(?=<seg\b|</p\s*>|</hl\s*>|</?doc\b)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_DOCUMENT_ID = re.compile(r"""docid\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_SEGMENT_ID = re.compile(r"""\bid\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)

_Segments = list[tuple[tuple[str, str], str | None]]


def _sgm_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    for members, streams in _paired_files(parallel_source, archives, languages):
        holders = (archives[parallel_source.sides[language].archive.name] for language in languages)
        names = [member or str(archive) for member, archive in zip(members, holders, strict=True)]
        left, right = (_segments(stream, name) for stream, name in zip(streams, names, strict=True))
        if [key for key, _ in left] != [key for key, _ in right]:
            right = _reordered(left, right, names)
        yield from ((one, other) for (_, one), (_, other) in zip(left, right, strict=True))


def _segments(stream: BinaryIO, name: str) -> _Segments:
    """((document, segment identifier), text) of each segment."""
    data = stream.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise DataError(f"{name}: over {MAX_DOCUMENT:,} bytes; accepted: SGM sets up to that size")
    document, segments = "", []
    for found in _SGM.finditer(data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")):
        if found["segment"] is None:
            named = _DOCUMENT_ID.search(found["document"])
            document = named[1] if named else ""
        else:
            numbered = _SEGMENT_ID.search(found["segment"])
            segments.append(((document, numbered[1] if numbered else ""), _plain(found["text"])))
    return segments


def _reordered(left: _Segments, right: _Segments, names: Sequence[str]) -> _Segments:
    """The right side in the order of the left: by identifiers, or by position where no identifier is in both.

    Raises DataError where one side lacks a segment: it is another set.
    """
    left_by_key, right_by_key = dict(left), dict(right)
    unique = len(left_by_key) == len(left) and len(right_by_key) == len(right)
    if unique and left_by_key.keys() & right_by_key.keys():
        for here, there, lacking in (
            (*names, [key for key, _ in left if key not in right_by_key]),
            (*reversed(names), [key for key, _ in right if key not in left_by_key]),
        ):
            if lacking:
                document, segment = lacking[0]
                raise DataError(
                    f"{len(lacking):,} segments of {here} are not in {there}, the first in document '{document}' with "
                    f"id '{segment}'; accepted: the same segments on both sides"
                )
        return [(key, right_by_key[key]) for key in left_by_key]
    if len(left) != len(right):
        raise DataError(
            f"{names[0]} has {len(left):,} segments and {names[1]} {len(right):,}; accepted: as many on both sides"
        )
    LOG.warning("%s and %s have no identifier in common; their segments are paired by position", *names)
    return right


def _plain(markup: str) -> str | None:
    """The text of an element, with entities resolved and whitespace collapsed; None where it is not UTF-8."""
    if _UNDECODABLE.search(markup):
        return None
    return re.sub(r"[ \t\r\n]+", " ", html.unescape(markup)).strip(" ")


# TMX, one unit at a time; declarations and entities of the document are not expanded

_UNIT_START = re.compile(r"<tu(?=[\s>])", re.IGNORECASE)
_UNIT_END = re.compile(r"</tu\s*>", re.IGNORECASE)
_VARIANT = re.compile(r"<tuv\b([^>]*)>(.*?)(?=<tuv\b|\Z)", re.DOTALL | re.IGNORECASE)
_LANGUAGE = re.compile(r"""\blang\s*=\s*["']?([A-Za-z]+)""", re.IGNORECASE)
_SEGMENT = re.compile(r"<seg\b[^>]*(?<!/)>(.*?)</seg\s*>", re.DOTALL | re.IGNORECASE)
_VERBATIM = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_CODE = re.compile(r"<(bpt|ept|ph|it|ut)\b[^>]*(?<!/)>.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def _tmx_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    left, right = map(primary_language, languages)
    for stream in _streams(parallel_source.sides[languages[0]], archives):
        for unit in _units(stream):
            texts: dict[str, str | None] = {}
            for attributes, content in _VARIANT.findall(unit):
                language = _LANGUAGE.search(attributes)
                segment = _SEGMENT.search(content)
                if language and segment:
                    verbatim = _VERBATIM.sub(lambda found: html.escape(found[1]), segment[1])
                    texts.setdefault(language[1].lower(), _plain(_CODE.sub("", verbatim)))
            yield texts.get(left, ""), texts.get(right, "")


def _units(stream: BinaryIO) -> Iterator[str]:
    """The markup of each ``<tu>`` element. One over 16 MAX_LINE is skipped."""
    block = stream.read(MAX_LINE)
    decoder = codecs.getincrementaldecoder(_ENCODINGS.get(block[:2], "utf-8"))("surrogateescape")
    waiting = ""
    while block:
        waiting += decoder.decode(block)
        start = 0
        for end in _UNIT_END.finditer(waiting):
            begin = _UNIT_START.search(waiting, start, end.start())
            if begin:
                yield waiting[begin.end() : end.start()]
            start = end.end()
        waiting = waiting[start:]
        if len(waiting) > 16 * MAX_LINE:
            waiting = ""
        block = stream.read(MAX_LINE)


Reader = Callable[[ParallelSource, Archives, Languages], Iterator[Pair]]

_READERS: dict[str, Reader] = {
    "text": _text_pairs,
    "sgm": _sgm_pairs,
    "tsv": _field_pairs,
    "pipes": _field_pairs,
    "tmx": _tmx_pairs,
}
