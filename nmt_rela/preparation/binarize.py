"""Binarization: clean text to sub-word ids in an indexed dataset, on all cores.

SentencePiece encodes a block of lines in its own threads. Two blocks are encoded concurrently, so that the
single-threaded conversion of ids from lists to arrays of one overlaps with the encoding of the other. Threads, not
processes: they share the model in memory, and a kill leaves none of them behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.indexed_dataset import flatten, write_dataset
from nmt_rela.data.tokenizer import SentencePieceTokenizer, TokenizerPair
from nmt_rela.utils.progress import ProgressBar

#: Bytes of both sides of a block. Lines may be long, so their number does not bound it.
BLOCK_BYTES = 1 << 21


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """The ids of a block of pairs, one sentence after another without EOS."""

    pairs: int
    source_tokens: NDArray[np.integer]
    source_lengths: NDArray[np.int32]
    target_tokens: NDArray[np.integer]
    target_lengths: NDArray[np.int32]
    #: Positions in the block of the pairs that were dropped (``overlength``, ``empty``) or ``truncated``.
    changed: dict[str, NDArray[np.int64]]


def encode_block(
    tokenizers: TokenizerPair,
    source: bytes,
    target: bytes,
    *,
    max_length: int | None,
    on_overlength: Literal["drop", "truncate"],
    threads: int,
) -> EncodedBlock:
    """Encode the lines of a block, each ending in ``\\n``, on both sides.

    Pairs with a side of more than ``max_length`` sub-words, EOS included, or of none are dropped, or the long ones are
    truncated. Without ``max_length`` all pairs stay as they are.
    """
    source_ids = _encode(tokenizers.source, source, threads)
    target_ids = _encode(tokenizers.target, target, threads)
    pairs = len(source_ids)
    empty = overlength = truncated = np.zeros(pairs, dtype=np.bool_)
    if max_length is not None:
        source_lengths, target_lengths = _lengths(source_ids), _lengths(target_ids)
        empty = np.minimum(source_lengths, target_lengths) == 0
        overlength = (np.maximum(source_lengths, target_lengths) >= max_length) & ~empty
        if on_overlength == "truncate":
            truncated, overlength = overlength, truncated
            for index in np.flatnonzero(truncated):
                del source_ids[index][max_length - 1 :]
                del target_ids[index][max_length - 1 :]
        kept = np.flatnonzero(~(empty | overlength)).tolist()
        if len(kept) < pairs:
            source_ids, target_ids = [source_ids[index] for index in kept], [target_ids[index] for index in kept]
    return EncodedBlock(
        pairs,
        *flatten(source_ids),
        *flatten(target_ids),
        {
            "overlength": np.flatnonzero(overlength),
            "empty": np.flatnonzero(empty),
            "truncated": np.flatnonzero(truncated),
        },
    )


def _encode(tokenizer: SentencePieceTokenizer, block: bytes, threads: int) -> list[list[int]]:
    return tokenizer.encode(block.decode("utf-8").removesuffix("\n").split("\n"), threads=threads)


def _lengths(ids: list[list[int]]) -> NDArray[np.int32]:
    return np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))


def _read_blocks(source: Path, target: Path, block_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """The lines of two parallel files in blocks."""
    with open(source, "rb") as source_file, open(target, "rb") as target_file:
        pairs, size = [], 0
        for pair in zip(source_file, target_file, strict=True):
            pairs.append(pair)
            size += len(pair[0]) + len(pair[1])
            if size >= block_bytes:
                yield b"".join(line for line, _ in pairs), b"".join(line for _, line in pairs)
                pairs, size = [], 0
        if pairs:
            yield b"".join(line for line, _ in pairs), b"".join(line for _, line in pairs)


def _encoded_blocks(
    blocks: Iterable[tuple[bytes, bytes]], encode: Callable[[bytes, bytes], EncodedBlock], workers: int
) -> Iterator[EncodedBlock]:
    """The encoded blocks, in order."""
    with ThreadPoolExecutor(min(workers, 2)) as pool:
        waiting: deque[Future[EncodedBlock]] = deque()
        for source, target in blocks:
            waiting.append(pool.submit(encode, source, target))
            if len(waiting) > 3:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def binarize(
    source: Path,
    target: Path,
    tokenizers: TokenizerPair,
    directory: Path,
    *,
    lines: int,
    max_length: int | None = None,
    on_overlength: Literal["drop", "truncate"] = "drop",
    workers: int = 1,
    title: str = "encoding",
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, NDArray[np.int64]]:
    """Encode two parallel files and write them as an indexed dataset.

    Args:
        lines: of either file.
        max_length, on_overlength: as in `encode_block`.
        workers: threads that encode.

    Returns:
        The numbers of the lines, from 0, that were dropped as ``overlength`` or ``empty``, or ``truncated``.
    """
    encode = partial(encode_block, tokenizers, max_length=max_length, on_overlength=on_overlength, threads=workers)
    changed: dict[str, list[NDArray[np.int64]]] = {"overlength": [], "empty": [], "truncated": []}
    with (
        write_dataset(
            directory,
            source_vocabulary_size=tokenizers.source.size,
            target_vocabulary_size=tokenizers.target.size,
            vocabulary_fingerprint=tokenizers.fingerprint,
        ) as writer,
        ProgressBar(title, unit="pairs", total=lines) as progress,
    ):
        start = 0
        for block in _encoded_blocks(_read_blocks(source, target, block_bytes), encode, workers):
            writer.append(block.source_tokens, block.source_lengths, block.target_tokens, block.target_lengths)
            for name, positions in block.changed.items():
                changed[name].append(positions + start)
            start += block.pairs
            progress.advance(block.pairs)
    return {name: np.concatenate([np.empty(0, dtype=np.int64), *found]) for name, found in changed.items()}
