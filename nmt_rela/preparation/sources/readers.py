"""Readers of parallel text: a stream of pairs from each format.

A pair holds a source and a target; a side whose bytes are not UTF-8 is None. A row that has not the fields of
``columns`` gives None instead of a pair. Pairs keep the order of the files, and none is dropped: an empty line is an
empty string, so that two files stay aligned.
"""

from __future__ import annotations

import codecs
import contextlib
import html
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import BinaryIO

from nmt_rela.data.languages import language_tag, primary_language
from nmt_rela.preparation.sources.archives import LocalArchive, is_pattern, list_members, open_member
from nmt_rela.preparation.sources.task import ParallelSource, TextLocation
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import MAX_LINE, check_head, foreign_encoding, raw_lines, zip_equal

LOG = logging.getLogger(__name__)

Pair = tuple[str | None, str | None]

Languages = tuple[str, str]
Archives = Mapping[str, LocalArchive]

#: When none of this many first lines has the fields that ``columns`` names, the task file is wrong.
_CHECKED_LINES = 100
_SEPARATORS = {"tsv": (b"\t", "tabs"), "pipes": (b"|||", "|||")}
#: Bytes of an SGM set. Sets have a few megabytes and are read whole.
MAX_DOCUMENT = 256 << 20

#: Languages of a TMX file that an error names.
_NAMED_LANGUAGES = 20

_UNDECODABLE = re.compile("[\ud800-\udfff]")


def read_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair | None]:
    """The pairs of a parallel text, None for a row without the right fields.

    Args:
        parallel_source: which members hold it, and in what format.
        archives: the archives that hold it, by name.
        languages: source and target language.

    Raises:
        DataError: a member is missing or in another encoding, or the two sides cannot be paired; the message names the
            parallel_source.
    """
    try:
        yield from _READERS[parallel_source.format](parallel_source, archives, languages)
    except DataError as error:
        error.args = (f"source '{parallel_source.name}': {error}",)
        raise


def _text_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    for members, streams in _paired_files(parallel_source, archives, languages):
        names = _names(parallel_source, archives, languages, members)
        left, right = (map(_decoded, raw_lines(stream, name)) for stream, name in zip(streams, names, strict=True))
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


def _names(
    parallel_source: ParallelSource, archives: Archives, languages: Languages, members: Sequence[str]
) -> list[str]:
    """How messages name the two members of a pair of files; one that is a whole archive by the archive's path."""
    holders = (archives[parallel_source.sides[language].archive.name] for language in languages)
    return [member or str(archive) for member, archive in zip(members, holders, strict=True)]


def _members(side: TextLocation, archives: Archives) -> list[str]:
    return list_members(archives[side.archive.name], side.member) if is_pattern(side.member) else [side.member]


def _field_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair | None]:
    separator, shown = _SEPARATORS[parallel_source.format]
    wanted = len(parallel_source.columns)
    columns = [parallel_source.columns.index(language) for language in languages]
    for name, stream in _streams(parallel_source.sides[languages[0]], archives):
        lines = raw_lines(stream, name)
        first = list(islice(lines, _CHECKED_LINES))
        if first and all(line.count(separator) + 1 != wanted for line in first):
            raise DataError(
                f"'columns' names {wanted} fields, but line 1 has {first[0].count(separator) + 1}, and no line after "
                f"it {wanted}; accepted: fields with {shown} between them, and '-' in columns for each that is not text"
            )
        for line in chain(first, lines):
            fields = line.split(separator)
            if len(fields) == wanted:
                left, right = (_decoded(fields[column]) for column in columns)
                yield left and left.strip(), right and right.strip()
            else:
                yield None


def _streams(side: TextLocation, archives: Archives) -> Iterator[tuple[str, BinaryIO]]:
    """The files of a source with all languages in one file, with their names for messages."""
    archive = archives[side.archive.name]
    for member in _members(side, archives):
        with open_member(archive, member) as stream:
            yield member or str(archive), stream


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


# NIST SGM, by regular expressions: not every published file is well-formed. Here and in TMX
# none scans the rest of a file again and again for an end that is not there, so that the time is linear.

_SGM = re.compile(
    r"<doc\b(?P<document>[^<>]*)>"
    r"|<seg\b(?P<segment>[^<>]*)>(?P<text>.*?)(?:</seg\s*>|(?=<seg\b|</p\s*>|</hl\s*>|</?doc\b)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_DOCUMENT_ID = re.compile(r"""docid\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_SEGMENT_ID = re.compile(r"""\bid\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)

_Segments = list[tuple[tuple[str, str], str | None]]


def _sgm_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    for members, streams in _paired_files(parallel_source, archives, languages):
        names = _names(parallel_source, archives, languages, members)
        left, right = (_segments(stream, name) for stream, name in zip(streams, names, strict=True))
        if [key for key, _ in left] != [key for key, _ in right]:
            right = _reordered(left, right, names)
        yield from ((one, other) for (_, one), (_, other) in zip(left, right, strict=True))


def _segments(stream: BinaryIO, name: str) -> _Segments:
    """((document, segment identifier), text) of each segment."""
    data = stream.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise DataError(f"{name}: over {MAX_DOCUMENT:,} bytes; accepted: SGM sets up to that size")
    check_head(data, name)
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
    try:
        text = html.unescape(markup)
    except ValueError:  # a character reference of over 4,300 digits
        return None
    return re.sub(r"[ \t\r\n]+", " ", text).strip(" ")


# TMX, one unit at a time; declarations and entities of the document are not expanded

_UNIT_START = re.compile(r"<tu(?=[\s>])", re.IGNORECASE)
_UNIT_END = re.compile(r"</tu\s*>", re.IGNORECASE)
_VARIANT = re.compile(r"<tuv\b([^<>]*)>(.*?)(?=<tuv\b|\Z)", re.DOTALL | re.IGNORECASE)
_LANGUAGE = re.compile(r"""\blang\s*=\s*["']?([A-Za-z0-9_-]+)""", re.IGNORECASE)
_SEGMENT_START = re.compile(r"<seg\b[^<>]*(?<!/)>", re.IGNORECASE)
_SEGMENT_END = re.compile(r"</seg\s*>", re.IGNORECASE)
_VERBATIM = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)
_TAG = re.compile(r"<(/?)(?:(bpt|ept|ph|it|ut)\b)?[^<>]*>", re.IGNORECASE)
_DECLARATION = re.compile(
    rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([\w.:-]{1,40})["']""", re.ASCII
)
#: Codecs that Python calls text encodings, and that no file is written in.
_NO_CHARACTER_SETS = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined")


def _tmx_pairs(parallel_source: ParallelSource, archives: Archives, languages: Languages) -> Iterator[Pair]:
    found: Counter[str] = Counter()
    is_complete = False
    for name, stream in _streams(parallel_source.sides[languages[0]], archives):
        for unit in _units(stream, name):
            texts: dict[str, str | None] = {}
            for attributes, content in _VARIANT.findall(unit):
                language = _LANGUAGE.search(attributes)
                begin = _SEGMENT_START.search(content)
                end = begin and _SEGMENT_END.search(content, begin.end())
                if language and begin and end:
                    verbatim = _VERBATIM.sub(lambda found: html.escape(found[1]), content[begin.end() : end.start()])
                    texts.setdefault(language_tag(language[1]), _plain(_without_codes(verbatim)))
            found.update(tag for tag in texts if tag in found or len(found) < _NAMED_LANGUAGES)
            left, right = _variants(texts, languages)
            is_complete |= bool(left and right)
            yield texts.get(left, ""), texts.get(right, "")
    if found and not is_complete:
        names = ", ".join(f"{tag} ({count:,})" for tag, count in found.most_common())
        raise DataError(f"no unit has both {' and '.join(languages)}; found: {names}")


def _variants(texts: Mapping[str, str | None], languages: Languages) -> tuple[str, str]:
    """The tags of both languages: the same full tags, else others of the language that the other side has not taken."""
    chosen = [tag if (tag := language_tag(language)) in texts else "" for language in languages]
    for side in (0, 1):
        primary, taken = primary_language(languages[side]), chosen[1 - side]
        others = (tag for tag in texts if primary_language(tag) == primary and tag != taken)
        chosen[side] = chosen[side] or next(others, "")
    return chosen[0], chosen[1]


def _without_codes(markup: str) -> str:
    """Text without tags, and without the content of elements that hold codes of another format, such as ``<bpt>``."""
    last_end = {tag[2].lower(): tag.start() for tag in _TAG.finditer(markup) if tag[1] and tag[2]}
    kept, start, inside = [], 0, ""
    for tag in _TAG.finditer(markup):
        name = (tag[2] or "").lower()
        if not inside:
            kept.append(markup[start : tag.start()])
            is_open = name and not tag[1] and not tag[0].endswith("/>") and last_end.get(name, 0) > tag.start()
            inside = name if is_open else ""
        elif tag[1] and name == inside:
            inside = ""
        start = tag.end()
    return "".join(kept) + markup[start:]


def _encoding_of(head: bytes, name: str) -> str:
    """The encoding of a TMX file: UTF-16 or UTF-32 by its first bytes, else what it declares, else UTF-8."""
    if wide := foreign_encoding(head):
        return wide
    check_head(head, name)
    declared = _DECLARATION.match(head)
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    if re.match("utf-?(16|32)", encoding):
        return "utf-8"  # its declaration could not be read otherwise
    try:
        " ".encode(encoding)
        if encoding in _NO_CHARACTER_SETS:
            raise LookupError
    except (LookupError, UnicodeError):
        raise DataError(f"{name}: declares the encoding '{encoding}', which is not known; accepted: UTF-8") from None
    return encoding


def _units(stream: BinaryIO, name: str) -> Iterator[str]:
    """The markup of each ``<tu>`` element. One over 16 MAX_LINE is skipped."""
    block = stream.read(MAX_LINE)
    decoder = codecs.getincrementaldecoder(_encoding_of(block, name))("surrogateescape")
    waiting = ""
    while block:
        try:
            waiting += decoder.decode(block)
        except UnicodeError as error:
            raise DataError(f"{name}: is not in the encoding that it declares ({error}); accepted: UTF-8") from None
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


Reader = Callable[[ParallelSource, Archives, Languages], Iterator[Pair | None]]

_READERS: dict[str, Reader] = {
    "text": _text_pairs,
    "sgm": _sgm_pairs,
    "tsv": _field_pairs,
    "pipes": _field_pairs,
    "tmx": _tmx_pairs,
}
