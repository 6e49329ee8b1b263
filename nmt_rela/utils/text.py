"""Text files: UTF-8, one sentence per line; a line ends at ``\\n`` only.

A carriage return before the line end and a byte-order mark at the start of a file are removed. All other characters
stay: U+2028, U+0085, vertical tab, form feed and NUL do not end a line. With `str.splitlines` they would, and a
parallel corpus would lose its alignment.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from nmt_rela.utils.errors import DataError, UserError
from nmt_rela.utils.files import atomic_write

LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Other = TypeVar("Other")

#: A longer line is no sentence. It is cut, so that it neither fills the memory nor shifts the lines after it.
MAX_LINE = 1 << 20

_HEAD = 4096
_READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
_COMPRESSED = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)|(?P<bzip2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))|(?P<xz>\xfd7zXZ\0)"
    rb"|(?P<zstd>\x28\xb5\x2f\xfd)|(?P<lzma>\x5d\0\0)|(?P<lz4>\x04\x22\x4d\x18)|(?P<zip>PK\x03\x04)"
)
#: Escape sequences that switch to a set of two bytes per character.
_ISO_2022 = re.compile(rb"\x1b\$(?:[@AB]|\([@-D]|\)[ACG])")
#: NUL characters in the head of a file that may still be text.
_FEW_NULS = 4
#: Carriage returns in a text without line feeds that are its line ends.
_MANY_RETURNS = 5
_OPENERS: dict[str | None, Callable[[Any], Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}


def check_head(head: bytes, name: str, error: type[UserError] = DataError) -> None:
    """Raise ``error`` where a text begins in another encoding, compressed or as binary data, or has no line feeds.

    ``head`` are its first bytes, of which a few thousand are read.
    """
    head = head[:_HEAD]
    if compression := compression_of(head):
        accepted = "plain text, .gz, .bz2 and .xz" if error is DataError else "plain text"
        raise error(f"{name}: compressed with {compression}; accepted: {accepted}")
    if encoding := foreign_encoding(head):
        raise error(f"{name}: the text is {encoding}; accepted: UTF-8 (try: iconv -f {encoding} -t UTF-8)")
    if head.count(0) > _FEW_NULS and (b"\0\0\0" in head or not _is_utf8(head)):
        raise error(f"{name}: found binary data; accepted: UTF-8 text")
    if b"\n" not in head and head.count(b"\r") > _MANY_RETURNS:
        raise error(f"{name}: lines end with carriage returns alone; accepted: line feeds (try: tr '\\r' '\\n')")


def compression_of(head: bytes) -> str | None:
    """The program that has compressed data, by its first bytes: gzip, bzip2, xz, zstd, lzma, lz4 or zip; or None."""
    found = _COMPRESSED.match(head)
    return found.lastgroup if found else None


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def foreign_encoding(head: bytes) -> str:
    """The name of an encoding whose bytes may be valid UTF-8, but not the same text; "" where it is another.

    It is UTF-16 or UTF-32, by the byte-order mark or by where zero bytes stand, or ISO-2022, by its escape sequences.
    """
    head = head[:_HEAD]
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if shift := _ISO_2022.search(head):
        return "ISO-2022-KR" if shift[0].endswith(b"C") else "ISO-2022-CN" if b")" in shift[0] else "ISO-2022-JP"
    if len(head) < 4 or 0 not in head:
        return ""
    for order, upper, plane in (("LE", 3, 2), ("BE", 0, 1)):
        if len(head) >= 8 and any(head) and not any(head[upper::4]) and max(head[plane::4]) <= 0x10:
            return f"UTF-32{order}"
    for order, high, low in (("LE", head[1::2], head[::2]), ("BE", head[::2], head[1::2])):
        latin = high.count(0) > 4 * low.count(0) and 2 * high.count(0) > len(high)
        # Spaces and line ends have a zero byte in any script. Most scripts have few different upper bytes.
        blanks = sum(1 for upper, lower in zip(high, low, strict=False) if upper == 0 and lower in b" \n")
        alphabet = blanks and 3 * len(set(high)) <= len(set(low))
        # Chinese and Korean have as many upper as lower bytes, but are not UTF-8.
        others = head.count(b" ") + head.count(b"\n") - blanks
        ideographs = blanks and 2 * blanks >= others and "\ufffd" in head.decode("utf-8", "replace")[:-1]
        if latin or alphabet or ideographs:
            return f"UTF-16{order}"
    return ""


def raw_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a binary stream, without line ends and without a byte-order mark, cut at MAX_LINE bytes.

    Raises DataError, which begins with ``name``, for text in UTF-16 or UTF-32 and for compressed data.
    """
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream))
    check_head(buffered.peek(_HEAD), name)
    mark = codecs.BOM_UTF8  # at the start of the first line
    while line := buffered.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) == MAX_LINE:
            while (rest := buffered.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            line = line[: codecs.utf_8_decode(line, "replace", False)[1]]  # no partial character
        yield line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(mark)
        mark = b""


def is_cut(line: bytes) -> bool:
    """Whether a line of `raw_lines` may have been longer."""
    return len(line) > MAX_LINE - 4


def open_text(path: Path | str) -> BinaryIO:
    """A file as a binary stream. gzip, bzip2 and xz are decompressed, by the content and not by the name.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115
        head = stream.peek(16)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    opener = _OPENERS.get(compression_of(head))
    return cast(BinaryIO, opener(stream)) if opener else stream


def decode_lines(stream: BinaryIO, name: str, *, replace: bool = False) -> Iterator[str]:
    """The lines of a binary stream as text; ``name`` identifies the stream in messages.

    Raises:
        DataError: the stream cannot be read or has another encoding, or a line is not UTF-8 or over MAX_LINE. With
            ``replace``, U+FFFD replaces invalid bytes instead, and one warning per stream names the first such line;
            a long line is cut, with a warning.
    """
    warned = False
    for number, line in enumerate(_readable(raw_lines(stream, name), name), start=1):
        if is_cut(line):
            if not replace:
                raise DataError(f"{name}:{number}: over {MAX_LINE - 4:,} bytes; accepted: shorter lines")
            LOG.warning("%s:%d: over %s bytes; the rest of the line is left out", name, number, f"{MAX_LINE - 4:,}")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            fault = f"invalid UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1})"
            if not replace:
                raise DataError(f"{name}:{number}: {fault}; accepted: UTF-8 text") from None
            if not warned:
                LOG.warning("%s:%d: %s; U+FFFD replaces such bytes, here and in later lines", name, number, fault)
                warned = True
            text = line.decode("utf-8", errors="replace")
        yield text


def _readable(lines: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Lines whose errors of reading and of decompression are DataErrors."""
    try:
        yield from lines
    except _READ_ERRORS as error:
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_lines(path: Path | str) -> Iterator[str]:
    """The lines of a file, which may be compressed.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    with open_text(path) as stream:
        yield from decode_lines(stream, str(path))


def count_lines(path: Path) -> int:
    """The lines of a file, which may be compressed. Raises DataError where it cannot be read."""
    with open_text(path) as stream:
        return sum(1 for _ in _readable(raw_lines(stream, str(path)), str(path)))


def read_parallel(source: Path | str, target: Path | str) -> Iterator[tuple[str, str]]:
    """The line pairs of two files.

    Raises:
        DataError: a file cannot be read, or the line counts differ (detected at the end of the shorter file).
    """
    return zip_equal(
        read_lines(source),
        read_lines(target),
        lambda left, right: (
            f"{source}: {left:,} lines, but {target}: {right:,} lines; accepted: equal numbers of lines"
        ),
    )


def zip_equal(
    left: Iterator[Item], right: Iterator[Other], describe: Callable[[int, int], str]
) -> Iterator[tuple[Item, Other]]:
    """Pairs of two iterators. Raises DataError, described by both lengths, at the end of the shorter one."""
    end: Any = object()
    for number, pair in enumerate(zip_longest(left, right, fillvalue=end)):
        if pair[0] is end or pair[1] is end:
            rest: Iterator[Any] = right if pair[0] is end else left
            longest = number + 1 + sum(1 for _ in rest)
            raise DataError(describe(*((number, longest) if pair[0] is end else (longest, number))))
        yield pair


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines atomically, ``\\n`` after each; return their number."""
    count = 0
    with atomic_write(Path(path)) as stream:
        for line in lines:
            assert "\n" not in line, "a line must not contain a line end"
            stream.write(line.encode("utf-8") + b"\n")
            count += 1
    return count
