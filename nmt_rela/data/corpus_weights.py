"""Weights of training sources: how many of each source's pairs an epoch holds, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.batch_plan import Pairs


def source_weights(sizes: Mapping[str, int], weights: Mapping[str, float], temperature: float) -> list[float]:
    """The weight of each source: times that each of its pairs is seen in an epoch, on average.

    With a temperature T above 1 a source's fraction of an epoch is proportional to size^(1/T); the epoch keeps its size
    (Arivazhagan et al. 2019, arXiv:1907.05019). Otherwise a weight is that of ``weights``, or 1.
    """
    if temperature == 1:
        return [weights.get(name, 1.0) for name in sizes]
    total = sum(sizes.values())
    evened = [size ** (1 / temperature) for size in sizes.values()]
    scale = total / sum(evened)
    return [scale * pairs / size if size else 1.0 for pairs, size in zip(evened, sizes.values(), strict=True)]


def weighted_pairs(sizes: Sequence[int], weights: Sequence[float], *, seed: int, epoch: int) -> list[Pairs]:
    """The pairs of one epoch, by source: positions in a corpus where the sources follow one another.

    Each source is an endless stream: all its pairs in random order, then all in another order, and so on. An epoch
    takes the next ``weight`` × size of them, so their number is within one of it and every pair is seen equally often.
    """
    first_pairs = np.cumsum([0, *sizes])
    return [
        first + _stream(size, round(epoch * weight * size), round((epoch + 1) * weight * size), [seed, source])
        for source, (first, size, weight) in enumerate(zip(first_pairs, sizes, weights, strict=False))
    ]


def _stream(size: int, begin: int, end: int, seed: list[int]) -> NDArray[np.int64]:
    """Elements ``begin`` to ``end`` of the endless stream of permutations of ``range(size)``."""
    parts: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    while begin < end:
        number, start = divmod(begin, size)
        stop = min(start + end - begin, size)
        # Only the raw bits of PCG64 are the same in every version of NumPy: see batch_plan.py.
        bits = np.random.PCG64(np.random.SeedSequence([*seed, number])).random_raw(size)
        parts.append(np.argsort(bits, kind="stable")[start:stop].astype(np.int64, copy=False))
        begin += stop - start
    return np.concatenate(parts)
