"""Text files: UTF-8, one sentence per line; a line ends at ``\\n`` only.

A carriage return before the line end and a byte-order mark at the start of a file are removed. All other characters
stay: U+2028, U+0085, vertical tab, form feed and NUL do not end a line. With `str.splitlines` they would, and a
parallel corpus would lose its alignment.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write

LOG = logging.getLogger(__name__)

Item = TypeVar("Item")

_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_ZSTD = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def raw_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a binary stream, without line ends and without a byte-order mark."""
    for number, line in enumerate(stream):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        yield line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line


def open_text(path: Path | str) -> BinaryIO:
    """A file as a binary stream. gzip, bzip2 and xz are decompressed, by the content and not by the name.

    Raises:
        DataError: the file cannot be opened, or is compressed in another way.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115
        head = stream.peek(6)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if head.startswith(_ZSTD):
        raise DataError(f"{path}: compressed with zstd; accepted: plain text, gzip, bzip2, xz (try: zstd -d {path})")
    for magic, decompressed in _COMPRESSIONS.items():
        if head.startswith(magic):
            return cast(BinaryIO, decompressed(stream))
    return stream


def decode_lines(stream: BinaryIO, name: str, *, replace: bool = False) -> Iterator[str]:
    """The lines of a binary stream as text; ``name`` identifies the stream in messages.

    Raises:
        DataError: the stream cannot be read, or a line is not UTF-8. With ``replace``, U+FFFD replaces invalid bytes
            instead, and one warning per stream names the first such line.
    """
    warned = False
    for number, line in enumerate(_readable(raw_lines(stream), name), start=1):
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
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_lines(path: Path | str) -> Iterator[str]:
    """The lines of a file, which may be compressed.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    with open_text(path) as stream:
        yield from decode_lines(stream, str(path))


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
    left: Iterator[Item], right: Iterator[Item], describe: Callable[[int, int], str]
) -> Iterator[tuple[Item, Item]]:
    """Pairs of two iterators. Raises DataError, described by both lengths, at the end of the shorter one."""
    end: Any = object()
    for number, pair in enumerate(zip_longest(left, right, fillvalue=end)):
        if pair[0] is end or pair[1] is end:
            longest = number + 1 + sum(1 for _ in (right if pair[0] is end else left))
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
