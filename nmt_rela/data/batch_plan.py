"""The batch plan: which pairs make which micro-batch, as a pure function of lengths and a few integers.

The plan knows nothing of ranks: an *update* is ``accumulate`` consecutive micro-batches, and rank r of R takes
micro-batches r, r + R, … of each. So the number of ranks may change and the order of the data does not, and the
plan's cursor is the number of an update.

How it is made. Pairs lie in a plane, source length by target length, which is cut into strips along one side (drawn
anew each epoch, so that batches mix), each strip wide enough for a few batches. A strip is read along the other side,
forwards and backwards in turn, so that neighbours in this order have much the same length on both sides; then batches
are cut off greedily, and shuffled. Only the raw 64-bit stream of PCG64 is used, which NumPy promises never to change
(its distributions, ``shuffle`` included, may), so a plan is the same on every machine and version.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmt_rela.utils.errors import DataError

Lengths = NDArray[np.integer]

#: Batches that a strip holds at least; 3 pads least on corpora of ten thousand to a million pairs.
_BATCHES_A_STRIP = 3
#: Lengths above this count as equal when pairs are ordered, so that sort keys fit in 64 bits.
_LONGEST_APART = 65_535
#: Pairs handled at a time where temporary arrays would otherwise be as long as the corpus.
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """The micro-batches of one epoch: batch i holds the pairs ``order[starts[i]:starts[i + 1]]``."""

    #: Every pair's position in the corpus, once: int32 (int64 above 2**31 pairs).
    order: NDArray[np.integer]
    #: Where batches begin in ``order``, and its length at the end: batches + 1 entries, int64.
    starts: NDArray[np.int64]
    #: Micro-batches in one update.
    accumulate: int

    @property
    def batches(self) -> int:
        """Micro-batches in the epoch, a multiple of ``accumulate``."""
        return len(self.starts) - 1

    @property
    def updates(self) -> int:
        """Updates in the epoch."""
        return self.batches // self.accumulate

    def batch(self, index: int) -> NDArray[np.integer]:
        """Positions in the corpus of the pairs of one micro-batch (a view)."""
        return self.order[self.starts[index] : self.starts[index + 1]]

    def padding_share(self, source_lengths: Lengths, target_lengths: Lengths) -> float:
        """Share of the epoch's batch cells, both sides together, that hold padding."""
        sizes = np.diff(self.starts)
        filled = self.starts[:-1][sizes > 0]
        if not len(filled):
            return 0.0
        cells = 0
        for lengths in (source_lengths, target_lengths):
            cells += int(sizes[sizes > 0] @ np.maximum.reduceat(lengths[self.order], filled).astype(np.int64))
        return 1.0 - (int(source_lengths.sum(dtype=np.int64)) + int(target_lengths.sum(dtype=np.int64))) / cells


def plan_epoch(
    source_lengths: Lengths,
    target_lengths: Lengths,
    *,
    batch_tokens: int,
    accumulate: int,
    seed: int,
    epoch: int,
) -> BatchPlan:
    """Plan one epoch.

    Lengths are sub-words of each pair, end of sentence included, so at least 1. In every micro-batch sentences ×
    longest is at most ``batch_tokens`` on either side; only a pair that is itself longer has a batch of its own. The
    number of micro-batches is a multiple of ``accumulate``: the largest are halved until it is, and where there are
    fewer pairs than that, some are empty.

    Raises DataError when there are no pairs.
    """
    pairs = len(source_lengths)
    assert pairs == len(target_lengths)
    if not pairs:
        raise DataError("the training corpus holds no pairs; at least one is needed")
    random = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    order = _order(source_lengths, target_lengths, strip_tokens=_BATCHES_A_STRIP * batch_tokens, random=random)
    longest = np.empty(pairs, dtype=np.int32)
    for start in range(0, pairs, _CHUNK):
        chunk = order[start : start + _CHUNK]
        np.maximum(source_lengths[chunk], target_lengths[chunk], out=longest[start : start + _CHUNK], casting="unsafe")
    starts = _cut(longest, batch_tokens)
    starts = _fill_up(starts, longest, accumulate)
    del longest
    return _shuffle(order, starts, accumulate, random)


def _order(
    source_lengths: Lengths, target_lengths: Lengths, *, strip_tokens: int, random: np.random.PCG64
) -> NDArray[np.integer]:
    """Positions of all pairs, neighbours alike in length on both sides, ties in random order.

    One unsigned sort key a pair, from the highest bit: strip, place along the strip, random bits, position in the
    corpus. Keys are distinct, so any sorting algorithm gives the same order, and nothing but the keys is sorted.
    """
    pairs = len(source_lengths)
    across, along = source_lengths, target_lengths
    if random.random_raw() & 1:
        across, along = along, across
    strips = _strips(across, strip_tokens, offset=int(random.random_raw()) % strip_tokens)
    span = min(int(along.max()), _LONGEST_APART) + 1
    position_bits = max(1, (pairs - 1).bit_length())
    random_bits = 64 - position_bits - max(1, ((int(strips[-1]) + 1) * span - 1).bit_length())
    keys = np.empty(pairs, dtype=np.uint64)
    for start in range(0, pairs, _CHUNK):
        strip = strips[np.minimum(across[start : start + _CHUNK], _LONGEST_APART)]
        place = np.minimum(along[start : start + _CHUNK], _LONGEST_APART).astype(np.int64)
        place = np.where(strip & 1, span - 1 - place, place)
        key = (strip * span + place).astype(np.uint64)
        if random_bits:
            key <<= np.uint64(random_bits)
            key |= random.random_raw(len(key)) >> np.uint64(64 - random_bits)
        key <<= np.uint64(position_bits)
        key |= np.arange(start, start + len(key), dtype=np.uint64)
        keys[start : start + _CHUNK] = key
    keys.sort()
    keys &= np.uint64((1 << position_bits) - 1)
    return keys.astype(np.int32 if pairs <= 1 << 31 else np.int64)


def _strips(lengths: Lengths, strip_tokens: int, *, offset: int) -> NDArray[np.int64]:
    """The strip of each length; lengths share one until it has ``strip_tokens``, the first with ``offset`` less."""
    counts = np.zeros(min(int(lengths.max()), _LONGEST_APART) + 1, dtype=np.int64)
    for start in range(0, len(lengths), _CHUNK):
        counts += np.bincount(np.minimum(lengths[start : start + _CHUNK], _LONGEST_APART), minlength=len(counts))
    strips = np.empty(len(counts), dtype=np.int64)
    strip, held = 0, offset
    for length, tokens in enumerate((counts * np.arange(len(counts))).tolist()):
        strips[length] = strip
        held += tokens
        if held >= strip_tokens:
            strip, held = strip + 1, 0
    return strips


def _cut(longest: NDArray[np.int32], batch_tokens: int) -> NDArray[np.int64]:
    """Where batches begin when each takes as many pairs, in order, as the budget allows; the length at the end."""
    counts = np.arange(1, batch_tokens + 1, dtype=np.int64)
    starts = [0]
    start = 0
    while start < len(longest):
        # No batch from here can hold more pairs than this one's own length allows.
        window = np.maximum.accumulate(longest[start : start + batch_tokens // int(longest[start])])
        cells = window * counts[: len(window)]
        start += max(1, int(cells.searchsorted(batch_tokens, side="right")))
        starts.append(start)
    return np.array(starts, dtype=np.int64)


def _fill_up(starts: NDArray[np.int64], longest: NDArray[np.int32], accumulate: int) -> NDArray[np.int64]:
    """Halve the largest batches (padded) until their number is a multiple of ``accumulate``, or else add empty ones."""
    missing = -(len(starts) - 1) % accumulate
    if not missing:
        return starts
    sizes = np.diff(starts)
    cells = np.where(sizes > 1, sizes * np.maximum.reduceat(longest, starts[:-1]), 0)
    # As many of the largest that have two pairs or more as there are halvings to make will do.
    largest = np.argsort(-cells, kind="stable")[:missing].tolist()
    heap = [(-int(cells[index]), int(starts[index]), int(starts[index + 1])) for index in largest]
    heapq.heapify(heap)
    added: list[int] = []
    while len(added) < missing and heap:
        _, start, end = heapq.heappop(heap)
        if end - start > 1:
            middle = (start + end) // 2
            added.append(middle)
            for left, right in ((start, middle), (middle, end)):
                heapq.heappush(heap, (-(right - left) * int(longest[left:right].max()), left, right))
    empty = [len(longest)] * (missing - len(added))
    return np.sort(np.concatenate((starts, np.array(added + empty, dtype=np.int64))))


def _shuffle(
    order: NDArray[np.integer], starts: NDArray[np.int64], accumulate: int, random: np.random.PCG64
) -> BatchPlan:
    """The same batches in random order."""
    shuffled = np.argsort(random.random_raw(len(starts) - 1), kind="stable")
    sizes = np.diff(starts)[shuffled]
    new_order = np.empty_like(order)
    new_starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes)))
    for old, start, end in zip(
        starts[shuffled].tolist(), new_starts[:-1].tolist(), new_starts[1:].tolist(), strict=True
    ):
        new_order[start:end] = order[old : old + end - start]
    return BatchPlan(order=new_order, starts=new_starts, accumulate=accumulate)
