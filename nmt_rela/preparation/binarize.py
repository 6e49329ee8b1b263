"""Clean text to the binary corpus, on all cores.

SentencePiece encodes a block of lines in its own threads. Two blocks are at work at a time, so that the cores are busy
while the ids of one become Python lists, and those arrays, which one core does; a few wait to be written, in order.
Threads, not processes: they share the vocabulary, in memory and in caches, and nothing is left of them after a kill.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.indexed_dataset import ParallelDatasetWriter
from nmt_rela.data.tokenizer import TokenizerPair, Vocabulary
from nmt_rela.utils.progress import Progress

#: Bytes of both sides of a block: not so many lines, which may be long.
_BLOCK = 1 << 21


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthFilter:
    """What happens to pairs with a side of more than ``max_length`` sub-words, EOS counted; ``keep`` leaves them."""

    max_length: int
    on_overlength: Literal["drop", "truncate", "keep"]


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """Ids of a block of pairs, one sentence after another without EOS, and what became of the others."""

    source_tokens: NDArray[np.integer]
    source_lengths: NDArray[np.int32]
    target_tokens: NDArray[np.integer]
    target_lengths: NDArray[np.int32]
    #: Positions in the block of pairs that were dropped or truncated.
    overlong: NDArray[np.int64]
    empty: NDArray[np.int64]
    truncated: NDArray[np.int64]


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_chunk(
    vocabularies: TokenizerPair, source: bytes, target: bytes, rule: LengthFilter, *, threads: int = 1
) -> EncodedChunk:
    """Encode the lines of a block (each ending in ``\\n``) on both sides, and apply the rule."""
    source_ids = _encode(vocabularies.source, source, threads)
    target_ids = _encode(vocabularies.target, target, threads)
    source_lengths, target_lengths = _lengths(source_ids), _lengths(target_ids)
    dropped = truncated = empty = overlong = np.zeros(len(source_ids), dtype=np.bool_)
    if rule.on_overlength != "keep":
        empty = np.minimum(source_lengths, target_lengths) == 0
        overlong = (np.maximum(source_lengths, target_lengths) >= rule.max_length) & ~empty
        if rule.on_overlength == "truncate":
            truncated, overlong = overlong, np.zeros_like(overlong)
            for index in np.flatnonzero(truncated):
                del source_ids[index][rule.max_length - 1 :]
                del target_ids[index][rule.max_length - 1 :]
        dropped = empty | overlong
    if dropped.any() or truncated.any():
        kept = np.flatnonzero(~dropped).tolist()
        source_ids, target_ids = [source_ids[index] for index in kept], [target_ids[index] for index in kept]
        source_lengths, target_lengths = _lengths(source_ids), _lengths(target_ids)
    return EncodedChunk(
        _tokens(source_ids, vocabularies.source),
        source_lengths,
        _tokens(target_ids, vocabularies.target),
        target_lengths,
        *(np.flatnonzero(mask) for mask in (overlong, empty, truncated)),
    )


def _lengths(ids: list[list[int]]) -> NDArray[np.int32]:
    return np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))


def _tokens(ids: list[list[int]], vocabulary: Vocabulary) -> NDArray[np.integer]:
    """Ids one after another; in 16 bits where they fit, as they go from process to process."""
    flat = chain.from_iterable(ids)
    return np.fromiter(flat, dtype=np.uint16) if vocabulary.size <= 1 << 16 else np.fromiter(flat, dtype=np.uint32)


def _encode(vocabulary: Vocabulary, block: bytes, threads: int) -> list[list[int]]:
    return vocabulary.encode(block.decode("utf-8").removesuffix("\n").split("\n"), threads=threads)


def encode_chunks(
    source: Path, target: Path, vocabularies: TokenizerPair, rule: LengthFilter, *, workers: int
) -> Iterator[tuple[int, EncodedChunk]]:
    """The encoded blocks of two aligned files, each with its number of pairs, in order."""
    with open(source, "rb") as source_file, open(target, "rb") as target_file:
        blocks = _blocks(source_file, target_file)
        if workers == 1:
            for count, left, right in blocks:
                yield count, encode_chunk(vocabularies, left, right, rule)
            return
        pool = ThreadPoolExecutor(2)
        waiting: deque[tuple[int, Future[EncodedChunk]]] = deque()
        try:
            for count, left, right in blocks:
                waiting.append((count, pool.submit(encode_chunk, vocabularies, left, right, rule, threads=workers)))
                if len(waiting) > 3:
                    count, future = waiting.popleft()
                    yield count, future.result()
            while waiting:
                count, future = waiting.popleft()
                yield count, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _blocks(source: BinaryIO, target: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
    lines: tuple[list[bytes], list[bytes]] = ([], [])
    size = 0
    for left, right in zip(source, target, strict=True):
        lines[0].append(left)
        lines[1].append(right)
        size += len(left) + len(right)
        if size >= _BLOCK:
            yield len(lines[0]), b"".join(lines[0]), b"".join(lines[1])
            lines, size = ([], []), 0
    if lines[0]:
        yield len(lines[0]), b"".join(lines[0]), b"".join(lines[1])


def binarise(
    source: Path,
    target: Path,
    vocabularies: Path,
    directory: Path,
    *,
    rule: LengthFilter,
    ends: Sequence[int],
    workers: int,
    title: str,
) -> dict[str, NDArray[np.int64]]:
    """Encode two aligned files and write them as a binary corpus.

    Args:
        workers: threads that encode.
        ends: the files hold the texts of several sources, one after another; the line after the last of each.

    Returns:
        The pairs of each source that were dropped as ``overlong`` or ``empty``, or ``truncated``.
    """
    loaded = TokenizerPair.load(vocabularies)
    names = ("overlong", "empty", "truncated")
    outcomes: dict[str, NDArray[np.int64]] = {name: np.zeros(len(ends), dtype=np.int64) for name in names}
    writer = ParallelDatasetWriter(
        directory,
        source_vocabulary_size=loaded.source.size,
        target_vocabulary_size=loaded.target.size,
        vocabulary_fingerprint=loaded.fingerprint,
    )
    with writer, Progress(title, unit="pairs", total=ends[-1]) as progress:
        start = 0
        for count, block in encode_chunks(source, target, loaded, rule, workers=workers):
            writer.append_flat(block.source_tokens, block.source_lengths, block.target_tokens, block.target_lengths)
            for name, counts in outcomes.items():
                np.add.at(counts, np.searchsorted(ends, getattr(block, name) + start, side="right"), 1)
            start += count
            progress.add(count)
    return outcomes
