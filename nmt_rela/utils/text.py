"""Text files: UTF-8, one sentence per line; a line ends at ``\\n`` only.

A carriage return before the line end and a byte-order mark at the start of a file are removed. All other characters
stay: U+2028, U+0085, vertical tab, form feed and NUL do not end a line. With `str.splitlines` they would, and a
parallel corpus would lose its alignment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write

LOG = logging.getLogger(__name__)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def raw_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a binary stream, without line ends and without a byte-order mark."""
    for number, line in enumerate(stream):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        yield line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line


def decode_lines(stream: BinaryIO, name: str, *, replace: bool = False) -> Iterator[str]:
    """The lines of a binary stream as text; ``name`` identifies the stream in messages.

    Raises:
        DataError: a line is not UTF-8. With ``replace``, U+FFFD replaces the invalid bytes instead, and one warning
            per stream names the first such line.
    """
    warned = False
    for number, line in enumerate(raw_lines(stream), start=1):
        error = _utf8_error(line)
        if error and not replace:
            raise DataError(f"{name}:{number}: {error}; accepted: UTF-8 text")
        if error and not warned:
            LOG.warning("%s:%d: %s; U+FFFD replaces such bytes, here and in later lines", name, number, error)
            warned = True
        yield line.decode("utf-8", errors="replace")


def _utf8_error(line: bytes) -> str:
    """The fault of a line that is not UTF-8; "" for a valid line."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1})"
    return ""


def read_lines(path: Path | str) -> Iterator[str]:
    """The lines of a file.

    Raises:
        DataError: the file cannot be opened, or a line is not UTF-8.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    with stream:
        yield from decode_lines(stream, str(path))


def read_parallel(source: Path | str, target: Path | str) -> Iterator[tuple[str, str]]:
    """The line pairs of two files.

    Raises:
        DataError: a file cannot be read, or the line counts differ (detected at the end of the shorter file).
    """
    source_lines, target_lines = read_lines(source), read_lines(target)
    for number, (left, right) in enumerate(zip_longest(source_lines, target_lines)):
        if left is None or right is None:
            longest = number + 1 + sum(1 for _ in (target_lines if left is None else source_lines))
            counts = (number, longest) if left is None else (longest, number)
            raise DataError(
                f"{source}: {counts[0]:,} lines, but {target}: {counts[1]:,} lines; accepted: equal numbers of lines"
            )
        yield left, right


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines atomically, ``\\n`` after each; return their number."""
    count = 0
    with atomic_write(Path(path)) as stream:
        for line in lines:
            assert "\n" not in line, "a line must not contain a line end"
            stream.write(line.encode("utf-8") + b"\n")
            count += 1
    return count
