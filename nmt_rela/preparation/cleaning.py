"""Cleaning of training text: pairs are kept, repaired or dropped, and counted.

A pair is dropped as a whole, never one side of it, and counted under the first reason that applies. Development and
test sets are repaired, and none of their pairs is dropped. Sub-word lengths are limited later (`binarize`).

When a rule changes, raise ``_VERSIONS["text"]`` in pipeline.py. Otherwise text that was prepared before is used again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.languages import UNSPACED_CHARACTERS, writing_system
from nmt_rela.data.normalization import normalization_for, repair_text
from nmt_rela.preparation.cleaning_stats import CleaningStats

#: Longer sides are dropped in any writing system.
MAX_CHARACTERS = 65_536
#: Pairs with up to RATIO_FREE_WORDS words per side may have any length ratio; copies of fewer than COPY_WORDS are kept.
RATIO_FREE_WORDS = 5
COPY_WORDS = 3

#: Pairs in a chunk.
_CHUNK = 1 << 16

_UNSPACED_WORD = re.compile(f"[{UNSPACED_CHARACTERS}]|[^\\s{UNSPACED_CHARACTERS}]+")


def word_counter(language: str) -> Callable[[str], int]:
    """A function that counts words: between spaces, or single characters in a language written without spaces."""
    if writing_system(language).spaced:
        return lambda text: len(text.split())
    return lambda text: len(_UNSPACED_WORD.findall(text))


#: Both sides of a pair, and what was repaired in it.
_Repaired = tuple[str, str, str]


class HashSet64:
    """A set of 64-bit hashes in sorted arrays: 8 bytes per entry, 16 while two arrays are merged."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add hashes. Returns which of them are new; of equal ones only the first is."""
        unique, first = np.unique(hashes, return_index=True)
        known = np.zeros(len(unique), dtype=np.bool_)
        for run in self._runs:
            positions = np.searchsorted(run, unique)
            positions[positions == len(run)] = 0
            known |= run[positions] == unique
        new = np.zeros(len(hashes), dtype=np.bool_)
        new[first[~known]] = True
        self._insert(unique[~known])
        return new

    def _insert(self, run: NDArray[np.uint64]) -> None:
        """Merge runs of similar size, so that their number is the logarithm of the number of entries."""
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate((self._runs.pop(), run))
            run.sort(kind="stable")
        if len(run):
            self._runs.append(run)


class Cleaner:
    """Cleans one parallel source after another. Duplicates are found across all of them."""

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._normalize = [normalization_for(language, data) for language in data.languages]
        self._count_words = [word_counter(language) for language in data.languages]
        self._seen = HashSet64()

    def clean(
        self,
        pairs: Iterable[Sequence[str | None] | None],
        stats: CleaningStats,
        *,
        chunk_characters: int = 1 << 24,
    ) -> Iterator[list[tuple[str, ...]]]:
        """The pairs that are kept, in order and in chunks. Every decision is counted in ``stats``.

        What follows the two sides of a pair stays with it. A chunk ends early when its pairs have more than
        ``chunk_characters``.
        """
        chunk: list[tuple[str, ...]] = []  # both sides, the repair, and the rest
        characters = 0
        for pair in pairs:
            stats.read += 1
            cleaned = "fields" if pair is None else self._clean_pair(pair[0], pair[1])
            if isinstance(cleaned, str) or pair is None:
                stats.drop(str(cleaned))
            else:
                chunk.append((*cleaned, *map(str, pair[2:])))
                characters += len(cleaned[0]) + len(cleaned[1])
            if len(chunk) == _CHUNK or characters > chunk_characters:
                yield self._without_duplicates(chunk, stats)
                chunk, characters = [], 0
        yield self._without_duplicates(chunk, stats)

    def _clean_pair(self, left: str | None, right: str | None) -> _Repaired | str:
        """The repaired pair with its repair ("" for none), or the reason for which it is dropped."""
        if left is None or right is None:
            return "undecodable"
        left, repaired_left = repair_text(left)
        right, repaired_right = repair_text(right)
        left, right = self._normalize[0](left.strip()), self._normalize[1](right.strip())
        if not left or not right:
            return "empty"
        if len(left) > MAX_CHARACTERS or len(right) > MAX_CHARACTERS:
            return "overlength"
        shorter, longer = sorted((self._count_words[0](left), self._count_words[1](right)))
        if self._data.drop_untranslated and left == right and longer >= COPY_WORDS:
            return "copy"
        if longer > RATIO_FREE_WORDS and longer > self._data.max_length_ratio * shorter:
            return "ratio"
        return left, right, repaired_left or repaired_right

    def _without_duplicates(self, chunk: list[tuple[str, ...]], stats: CleaningStats) -> list[tuple[str, ...]]:
        new = [True] * len(chunk)
        if self._data.drop_duplicates:
            hashes = (_hash(left, right) for left, right, *_ in chunk)
            new = self._seen.add(np.fromiter(hashes, dtype=np.uint64, count=len(chunk))).tolist()
        kept = [cleaned for cleaned, is_new in zip(chunk, new, strict=True) if is_new]
        stats.kept += len(kept)
        stats.drop("duplicate", len(chunk) - len(kept))
        stats.repaired.update(repair for _, _, repair, *_ in kept if repair)
        return [(left, right, *rest) for left, right, _, *rest in kept]


def _hash(left: str, right: str) -> int:
    """A 64-bit hash. Among 40 million pairs the probability of any collision is 1 in 20,000."""
    return int.from_bytes(blake2b(f"{left}\n{right}".encode(), digest_size=8).digest(), "little")
