"""A stream of lines as chunks: large when lines come fast, small when they come slowly."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.prefetch import prefetch

#: Lines in the first chunk. Chunks double in size: the first translations appear early, later work is batched well.
INITIAL_CHUNK = 64
#: Lines and characters per chunk at most (the last line may exceed the characters). They bound the memory.
MAX_CHUNK = 4096
_MAX_CHARACTERS = 1 << 22
#: Lines that are read ahead at most.
_AHEAD = 256
#: Seconds without a new line after which an unfinished chunk is given out.
FLUSH_AFTER = 0.05


def read_chunks(
    lines: Iterable[str], *, initial: int = INITIAL_CHUNK, maximum: int = MAX_CHUNK
) -> Generator[list[str], None, None]:
    """The lines in order, in lists that are never empty. A thread reads a few lines ahead.

    An exception of ``lines`` is raised after the lines before it.
    """
    size, characters = initial, 0
    chunk: list[str] = []
    error: Exception | None = None
    with closing(prefetch(lines, min(maximum, _AHEAD), idle_after=FLUSH_AFTER)) as reader:
        try:
            for line in reader:
                if line is not None:
                    chunk.append(line)
                    characters += len(line)
                if chunk and (line is None or len(chunk) == size or characters > _MAX_CHARACTERS):
                    yield chunk
                    size = min(2 * size, maximum) if len(chunk) == size else size
                    chunk, characters = [], 0
        except Exception as raised:
            error = raised
        if chunk:
            yield chunk
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that are translated together, with the number of the first one in its file, from 0."""

    first_line: int
    lines: list[str]
    #: One per line; None without prefixes.
    prefixes: list[str] | None


def number_chunks(
    chunks: Iterable[list[str]], prefixes: Iterable[str] | None, *, first_line: int = 0
) -> Iterator[Chunk]:
    """Every chunk with its number and its ``prefixes``.

    Raises DataError if there are more prefixes than lines, or fewer.
    """
    remaining = None if prefixes is None else iter(prefixes)
    count = first_line
    for chunk in chunks:
        taken = None if remaining is None else list(islice(remaining, len(chunk)))
        if taken is not None and len(taken) < len(chunk):
            count += len(taken)
            raise DataError(f"--prefixes: {count:,} lines, but there are more to translate; accepted: one per line")
        yield Chunk(count, chunk, taken)
        count += len(chunk)
    if remaining is not None and next(remaining, None) is not None:
        raise DataError(f"--prefixes: more than the {count:,} lines to translate; accepted: one per line")
