"""Development and test sets: read as published, with their gold alignments. No pair is dropped from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nmt_rela.metrics.word_alignment import format_gold, read_pharaoh
from nmt_rela.preparation.sources.archives import LocalArchive
from nmt_rela.preparation.sources.readers import MAX_LINE, read_pairs
from nmt_rela.preparation.sources.task import ParallelSource
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import write_lines


def read_evaluation_pairs(
    source: ParallelSource, archives: Mapping[str, LocalArchive], languages: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """All pairs of a set.

    Raises DataError where one is not UTF-8 or was truncated for its length, or where their number is not the known one.
    """
    count = 0
    for count, pair in enumerate(read_pairs(source, archives, languages), start=1):
        for language, text in zip(languages, pair, strict=True):
            where = f"source '{source.name}': line {count} of {language}"
            if text is None:
                raise DataError(f"{where} is invalid UTF-8; accepted: UTF-8 text")
            if len(text) >= MAX_LINE // 4 and len(text.encode("utf-8")) > MAX_LINE - 4:
                raise DataError(f"{where} is over {MAX_LINE:,} bytes long")
        yield pair  # type: ignore[misc]  # neither text is None
    if source.lines and count != source.lines:
        raise DataError(f"source '{source.name}': {count:,} lines; the set has {source.lines:,}")


def write_parallel(pairs: Iterable[tuple[str, str]], source: Path, target: Path) -> int:
    """Write the pairs of a set, which fits into memory, to two files. Returns the number of lines."""
    held = list(pairs)
    write_lines(source, (text for text, _ in held))
    return write_lines(target, (text for _, text in held))


def copy_alignments(path: Path, target: Path, *, lines: int, reverse: bool) -> None:
    """Copy a Pharaoh file of gold links. ``reverse`` swaps the sides, where the file has the target word first.

    Raises:
        DataError: something is no link, or the number of lines differs from that of the pairs.
    """
    gold = read_pharaoh(path)
    if len(gold) != lines:
        raise DataError(f"{path}: {len(gold):,} lines of links for {lines:,} pairs; accepted: one line per pair")
    write_lines(target, (format_gold(links.reversed() if reverse else links) for links in gold))
