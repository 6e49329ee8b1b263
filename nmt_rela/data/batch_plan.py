"""The batch plan: which pairs make up each update of an epoch, and how an update is cut into micro-batches.

The plan is a pure function of the lengths, ``update_tokens``, the seed and the epoch. It knows neither ranks nor
memory: ``cut_update`` cuts an update into the micro-batches of each rank. So the same updates are made on any number of
devices, and the position in an epoch is the number of an update.

How the plan is made: the pairs of an update have similar lengths, so that one pass can hold them with little padding.
Pairs lie in a plane, source length by target length. It is cut into strips along one side (drawn anew per epoch, so
that updates mix), each wide enough for a few updates. A strip is read along the other side, alternately forwards and
backwards, so that neighbours in this order have similar lengths on both sides. Updates are cut off greedily and
shuffled. Only the raw 64-bit stream of PCG64 is used, which NumPy promises never to change (its distributions,
``shuffle`` included, may), so a plan is the same on every machine and version.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmt_rela.utils.errors import DataError

Lengths = NDArray[np.integer]
#: Positions of pairs in the corpus.
Pairs = NDArray[np.integer]

#: Updates that a strip holds at least; 3 pads least on corpora of ten thousand to a million pairs.
_UPDATES_PER_STRIP = 3
#: Lengths above this count as equal when pairs are ordered, so that sort keys fit in 64 bits.
_MAX_KEY_LENGTH = 65_535
#: Pairs handled at a time where temporary arrays would otherwise be as long as the corpus.
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """The updates of one epoch. Update i is made of the pairs ``order[offsets[i]:offsets[i + 1]]``."""

    #: Positions of the epoch's pairs in the corpus: int32 (int64 above 2**31 pairs).
    order: Pairs
    #: Where updates begin in ``order``, and its length at the end: updates + 1 entries, int64.
    offsets: NDArray[np.int64]

    @property
    def num_updates(self) -> int:
        """Updates in the epoch."""
        return len(self.offsets) - 1

    def pairs(self, update: int) -> Pairs:
        """All pairs of one update (a view)."""
        return self.order[self.offsets[update] : self.offsets[update + 1]]

    def padding_fraction(self, source_lengths: Lengths, target_lengths: Lengths) -> float:
        """Fraction of the tokens of all updates, both sides, that are padding when each is one micro-batch."""
        sizes = np.diff(self.offsets)
        padded = 0
        for lengths in (source_lengths, target_lengths):
            padded += int(sizes @ np.maximum.reduceat(lengths[self.order], self.offsets[:-1]).astype(np.int64))
        return 1.0 - (int(source_lengths.sum(dtype=np.int64)) + int(target_lengths.sum(dtype=np.int64))) / padded


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The pairs of one forward and backward pass, and their number among the micro-batches of the update."""

    number: int
    pairs: Pairs


def cut_update(
    pairs: Pairs,
    source_lengths: Lengths,
    target_lengths: Lengths,
    *,
    max_batch_tokens: int,
    world_size: int = 1,
) -> list[list[MicroBatch]]:
    """The micro-batches of one update, per rank. They hold every one of ``pairs`` once.

    The pairs, in order, are divided into ``world_size`` spans of about as many tokens each; a rank has one, which may
    be empty. A micro-batch has at most ``max_batch_tokens`` padded tokens, both sides counted, or one pair.
    """
    width = int(source_lengths[pairs].max()) + int(target_lengths[pairs].max())
    ends = np.cumsum(source_lengths[pairs] + target_lengths[pairs], dtype=np.int64)
    cuts = ends.searchsorted([ends[-1] * rank // world_size for rank in range(1, world_size)], side="right")
    ranks: list[list[MicroBatch]] = []
    number = 0
    for span in np.split(pairs, cuts):
        pieces = np.array_split(span, -(-len(span) // max(1, max_batch_tokens // width))) if len(span) else []
        ranks.append([MicroBatch(number + i, piece) for i, piece in enumerate(pieces)])
        number += len(pieces)
    return ranks


def plan_epoch(
    source_lengths: Lengths,
    target_lengths: Lengths,
    *,
    update_tokens: int,
    seed: int,
    epoch: int,
    chosen: Pairs | None = None,
) -> BatchPlan:
    """Plan one epoch.

    Lengths are sub-words of each pair, end of sentence included, so at least 1. In every update, sentences × longest is
    at most ``update_tokens`` on either side, except where a single pair is longer. ``chosen`` are the positions of the
    pairs that the epoch holds, as often as they are named; None stands for every pair once.

    Raises DataError when there are no pairs.
    """
    if chosen is not None:
        source_lengths, target_lengths = source_lengths[chosen], target_lengths[chosen]
    pairs = len(source_lengths)
    assert pairs == len(target_lengths)
    if not pairs:
        raise DataError("the training corpus holds no pairs; at least one is needed")
    random = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    order = _order(source_lengths, target_lengths, strip_tokens=_UPDATES_PER_STRIP * update_tokens, random=random)
    longest = np.empty(pairs, dtype=np.int32)
    for start in range(0, pairs, _CHUNK):
        chunk = order[start : start + _CHUNK]
        np.maximum(source_lengths[chunk], target_lengths[chunk], out=longest[start : start + _CHUNK], casting="unsafe")
    starts = _cut_updates(longest, update_tokens)
    del longest
    return _shuffle(order if chosen is None else chosen[order], starts, random)


def _order(source_lengths: Lengths, target_lengths: Lengths, *, strip_tokens: int, random: np.random.PCG64) -> Pairs:
    """Positions of all pairs; neighbours have similar lengths on both sides, ties are in random order.

    One unsigned sort key per pair, from the highest bit: strip, position along the strip, random bits, position in the
    corpus. Keys are distinct, so any sorting algorithm gives the same order, and only the keys are sorted.
    """
    pairs = len(source_lengths)
    across, along = source_lengths, target_lengths  # the side that is cut into strips, and the other
    if random.random_raw() & 1:
        across, along = along, across
    strips = _length_strips(across, strip_tokens, offset=int(random.random_raw()) % strip_tokens)
    span = min(int(along.max()), _MAX_KEY_LENGTH) + 1
    position_bits = max(1, (pairs - 1).bit_length())
    random_bits = 64 - position_bits - max(1, ((int(strips[-1]) + 1) * span - 1).bit_length())
    keys = np.empty(pairs, dtype=np.uint64)
    for start in range(0, pairs, _CHUNK):
        strip = strips[np.minimum(across[start : start + _CHUNK], _MAX_KEY_LENGTH)]
        along_strip = np.minimum(along[start : start + _CHUNK], _MAX_KEY_LENGTH).astype(np.int64)
        along_strip = np.where(strip & 1, span - 1 - along_strip, along_strip)
        key = (strip * span + along_strip).astype(np.uint64)
        if random_bits:
            key <<= np.uint64(random_bits)
            key |= random.random_raw(len(key)) >> np.uint64(64 - random_bits)
        key <<= np.uint64(position_bits)
        key |= np.arange(start, start + len(key), dtype=np.uint64)
        keys[start : start + _CHUNK] = key
    keys.sort()
    keys &= np.uint64((1 << position_bits) - 1)
    return keys.astype(np.int32 if pairs <= 1 << 31 else np.int64)


def _length_strips(lengths: Lengths, strip_tokens: int, *, offset: int) -> NDArray[np.int64]:
    """The strip of each length. A strip ends when it has ``strip_tokens``, the first one with ``offset`` fewer."""
    counts = np.zeros(min(int(lengths.max()), _MAX_KEY_LENGTH) + 1, dtype=np.int64)
    for start in range(0, len(lengths), _CHUNK):
        counts += np.bincount(np.minimum(lengths[start : start + _CHUNK], _MAX_KEY_LENGTH), minlength=len(counts))
    strips = np.empty(len(counts), dtype=np.int64)
    strip, held = 0, offset
    for length, tokens in enumerate((counts * np.arange(len(counts))).tolist()):
        strips[length] = strip
        held += tokens
        if held >= strip_tokens:
            strip, held = strip + 1, 0
    return strips


def _cut_updates(longest: NDArray[np.int32], update_tokens: int) -> NDArray[np.int64]:
    """Where updates begin when each takes as many pairs, in order, as fit; the number of pairs at the end."""
    counts = np.arange(1, min(update_tokens, len(longest)) + 1, dtype=np.int64)
    starts = [0]
    start = 0
    while start < len(longest):
        # No update from here can hold more pairs than the length of its first pair allows.
        window = np.maximum.accumulate(longest[start : start + update_tokens // int(longest[start])])
        padded = window * counts[: len(window)]
        start += max(1, int(padded.searchsorted(update_tokens, side="right")))
        starts.append(start)
    return np.array(starts, dtype=np.int64)


def _shuffle(order: Pairs, starts: NDArray[np.int64], random: np.random.PCG64) -> BatchPlan:
    """The same updates in random order."""
    shuffled = np.argsort(random.random_raw(len(starts) - 1), kind="stable")
    sizes = np.diff(starts)[shuffled]
    new_order = np.empty_like(order)
    new_starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes)))
    for old, start, end in zip(
        starts[shuffled].tolist(), new_starts[:-1].tolist(), new_starts[1:].tolist(), strict=True
    ):
        new_order[start:end] = order[old : old + end - start]
    return BatchPlan(order=new_order, offsets=new_starts)
