"""Binarization: clean text to sub-word ids in an indexed dataset, on all cores.

SentencePiece encodes a block of lines in its own threads. Two blocks are encoded concurrently, so that the
single-threaded conversion of ids from lists to arrays of one overlaps with the encoding of the other. Threads, not
processes: they share the model in memory, and a kill leaves none of them behind.
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
from nmt_rela.data.tokenizer import SentencePieceTokenizer, TokenizerPair
from nmt_rela.utils.progress import ProgressBar

#: Bytes of both sides of a block. Lines may be long, so their number does not bound it.
BLOCK_BYTES = 1 << 21


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthFilter:
    """Treatment of pairs with a side of more than ``max_length`` sub-words, EOS included; ``keep`` leaves them."""

    max_length: int
    on_overlength: Literal["drop", "truncate", "keep"]


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """The ids of a block of pairs, one sentence after another without EOS."""

    source_tokens: NDArray[np.integer]
    source_lengths: NDArray[np.int32]
    target_tokens: NDArray[np.integer]
    target_lengths: NDArray[np.int32]
    #: Positions in the block of pairs that were dropped (overlength, empty) or truncated.
    overlength: NDArray[np.int64]
    empty: NDArray[np.int64]
    truncated: NDArray[np.int64]


def available_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_chunk(
    tokenizers: TokenizerPair, source: bytes, target: bytes, length_filter: LengthFilter, *, threads: int = 1
) -> EncodedChunk:
    """Encode the lines of a block, each ending in ``\\n``, on both sides, and apply the length filter."""
    source_ids = _encode(tokenizers.source, source, threads)
    target_ids = _encode(tokenizers.target, target, threads)
    source_lengths, target_lengths = _lengths(source_ids), _lengths(target_ids)
    dropped = truncated = empty = overlength = np.zeros(len(source_ids), dtype=np.bool_)
    if length_filter.on_overlength != "keep":
        empty = np.minimum(source_lengths, target_lengths) == 0
        overlength = (np.maximum(source_lengths, target_lengths) >= length_filter.max_length) & ~empty
        if length_filter.on_overlength == "truncate":
            truncated, overlength = overlength, np.zeros_like(overlength)
            for index in np.flatnonzero(truncated):
                del source_ids[index][length_filter.max_length - 1 :]
                del target_ids[index][length_filter.max_length - 1 :]
        dropped = empty | overlength
    if dropped.any() or truncated.any():
        kept = np.flatnonzero(~dropped).tolist()
        source_ids, target_ids = [source_ids[index] for index in kept], [target_ids[index] for index in kept]
        source_lengths, target_lengths = _lengths(source_ids), _lengths(target_ids)
    return EncodedChunk(
        _tokens(source_ids, tokenizers.source),
        source_lengths,
        _tokens(target_ids, tokenizers.target),
        target_lengths,
        *(np.flatnonzero(mask) for mask in (overlength, empty, truncated)),
    )


def _lengths(ids: list[list[int]]) -> NDArray[np.int32]:
    return np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))


def _tokens(ids: list[list[int]], tokenizer: SentencePieceTokenizer) -> NDArray[np.integer]:
    """Ids one after another, in 16 bits where they fit."""
    flat = chain.from_iterable(ids)
    return np.fromiter(flat, dtype=np.uint16) if tokenizer.size <= 1 << 16 else np.fromiter(flat, dtype=np.uint32)


def _encode(tokenizer: SentencePieceTokenizer, block: bytes, threads: int) -> list[list[int]]:
    return tokenizer.encode(block.decode("utf-8").removesuffix("\n").split("\n"), threads=threads)


def encode_chunks(
    source: Path,
    target: Path,
    tokenizers: TokenizerPair,
    length_filter: LengthFilter,
    *,
    workers: int,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[int, EncodedChunk]]:
    """The encoded blocks of two parallel files, in order, each with its number of pairs."""
    with open(source, "rb") as source_file, open(target, "rb") as target_file:
        blocks = _blocks(source_file, target_file, block_bytes)
        if workers == 1:
            for count, left, right in blocks:
                yield count, encode_chunk(tokenizers, left, right, length_filter)
            return
        pool = ThreadPoolExecutor(2)
        waiting: deque[tuple[int, Future[EncodedChunk]]] = deque()
        try:
            for count, left, right in blocks:
                waiting.append(
                    (count, pool.submit(encode_chunk, tokenizers, left, right, length_filter, threads=workers))
                )
                if len(waiting) > 3:
                    count, future = waiting.popleft()
                    yield count, future.result()
            while waiting:
                count, future = waiting.popleft()
                yield count, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _blocks(source: BinaryIO, target: BinaryIO, block_bytes: int) -> Iterator[tuple[int, bytes, bytes]]:
    lines: tuple[list[bytes], list[bytes]] = ([], [])
    size = 0
    for left, right in zip(source, target, strict=True):
        lines[0].append(left)
        lines[1].append(right)
        size += len(left) + len(right)
        if size >= block_bytes:
            yield len(lines[0]), b"".join(lines[0]), b"".join(lines[1])
            lines, size = ([], []), 0
    if lines[0]:
        yield len(lines[0]), b"".join(lines[0]), b"".join(lines[1])


def binarize(
    source: Path,
    target: Path,
    tokenizers: Path,
    directory: Path,
    *,
    length_filter: LengthFilter,
    ends: Sequence[int],
    workers: int,
    title: str,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, NDArray[np.int64]]:
    """Encode two parallel files and write them as an indexed dataset.

    Args:
        workers: threads that encode.
        ends: for each source, whose texts follow one another in the files, the number of the line after its last.

    Returns:
        The number of pairs of each source that were dropped as ``overlength`` or ``empty``, or ``truncated``.
    """
    loaded = TokenizerPair.load(tokenizers)
    names = ("overlength", "empty", "truncated")
    outcomes: dict[str, NDArray[np.int64]] = {name: np.zeros(len(ends), dtype=np.int64) for name in names}
    writer = ParallelDatasetWriter(
        directory,
        source_vocabulary_size=loaded.source.size,
        target_vocabulary_size=loaded.target.size,
        vocabulary_fingerprint=loaded.fingerprint,
    )
    with writer, ProgressBar(title, unit="pairs", total=ends[-1]) as progress:
        start = 0
        chunks = encode_chunks(source, target, loaded, length_filter, workers=workers, block_bytes=block_bytes)
        for count, block in chunks:
            writer.append(block.source_tokens, block.source_lengths, block.target_tokens, block.target_lengths)
            for name, counts in outcomes.items():
                np.add.at(counts, np.searchsorted(ends, getattr(block, name) + start, side="right"), 1)
            start += count
            progress.advance(count)
    return outcomes
