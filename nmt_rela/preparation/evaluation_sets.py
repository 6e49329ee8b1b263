"""Development and test sets: read as published, with their gold alignments. Nothing is dropped from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nmt_rela.preparation.sources.archives import LocalArchive
from nmt_rela.preparation.sources.readers import MAX_LINE, read_pairs
from nmt_rela.preparation.sources.task import ParallelSource
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import read_lines, write_lines

_LINK = re.compile(r"(\d+)([-p])(\d+)")


def read_evaluation_pairs(
    source: ParallelSource, files: Mapping[str, LocalArchive], languages: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """The pairs of a set, whole.

    Raises DataError where one is not UTF-8 or so long that it was cut, or their number is not the one of the task file.
    """
    count = 0
    for count, (left, right) in enumerate(read_pairs(source, files, languages), start=1):
        if left is None or right is None:
            side = languages[0] if left is None else languages[1]
            raise DataError(f"source '{source.name}': line {count} of {side} is invalid UTF-8; accepted: UTF-8 text")
        for side, text in zip(languages, (left, right), strict=True):
            if len(text) >= MAX_LINE // 4 and len(text.encode("utf-8")) > MAX_LINE - 4:
                raise DataError(f"source '{source.name}': line {count} of {side} is over {MAX_LINE:,} bytes long")
        yield left, right
    if source.lines and count != source.lines:
        raise DataError(f"source '{source.name}': {count:,} lines; the set has {source.lines:,}")


def write_parallel(pairs: Iterable[tuple[str, str]], source: Path, target: Path) -> int:
    """Write a set, which fits into memory, to two files; the number of lines."""
    both = list(pairs)
    write_lines(source, (left for left, _ in both))
    return write_lines(target, (right for _, right in both))


def copy_alignments(path: Path, target: Path, *, lines: int, reverse: bool) -> None:
    """Copy gold links (``i-j`` sure, ``ipj`` possible), turned round where the file has the target word first.

    Raises:
        DataError: something is no link, or there are not as many lines as pairs.
    """
    copied = []
    for number, line in enumerate(read_lines(path), start=1):
        links = [_LINK.fullmatch(link) for link in line.split()]
        if None in links:
            raise DataError(f"{path}:{number}: not all of it are links; accepted: i-j and ipj, with spaces between")
        copied.append(
            " ".join(f"{link[3]}{link[2]}{link[1]}" if reverse else link[0] for link in links if link is not None)
        )
    if len(copied) != lines:
        raise DataError(f"{path}: {len(copied):,} lines of links for {lines:,} pairs; accepted: one a pair")
    write_lines(target, copied)
