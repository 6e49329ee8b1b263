"""Segmentations drawn at random, by the algorithms of SentencePiece: BPE-dropout, and sampling from a unigram model.

SentencePiece draws them too, but its generator has a salt of its own in every process, so no draw can be repeated.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import accumulate
from random import Random

from nmt_rela.data.tokenizer import BOS, UNK, WORD_START, SentencePieceTokenizer

#: Words whose unigram lattice is kept, and their characters at most: a lattice takes a kilobyte for two of them.
_CACHED_WORDS, _CACHED_LENGTH = 20_000, 16
#: For each end position: the cumulative weights of the sub-words that end there, and their (begin, id).
_Lattice = list[tuple[list[float], list[tuple[int, int]]]]


class SubwordSampler:
    """Draws segmentations of sentences that one tokenizer has encoded.

    A word is what begins with a sub-word that begins with ``▁``; words are segmented one by one. A word with a tag or
    an unknown character keeps its ids, and so does one with a symbol that the model was given and has not learned.

    Args:
        alpha: bpe: the probability that a merge is left out (Provilkov et al. 2020). unigram: the exponent of the
            probabilities (Kudo 2018); segmentations differ the more the smaller it is.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer, alpha: float) -> None:
        self._alpha = alpha
        self._pieces, self._scores = list(tokenizer.vocabulary), tokenizer.scores
        self._ids = {
            piece: i
            for i, piece in enumerate(self._pieces)
            if i > BOS and piece in self._scores and piece not in tokenizer.tags
        }
        self._learned = frozenset(self._ids.values())
        self._longest = max(map(len, self._ids), default=1)
        # Where a sub-word may span words, the sentence is segmented as one.
        spans = any(WORD_START in piece[1:] for piece in self._ids)
        self._begins_word = [not spans and piece.startswith(WORD_START) for piece in self._pieces]
        self._draw = self._drop_merges if tokenizer.algorithm == "bpe" else self._draw_from_lattice
        self._cached_lattice = lru_cache(_CACHED_WORDS)(self._build_lattice)

    def sample(self, ids: Sequence[int], random: Random) -> list[int]:
        """Another segmentation of a sentence, given and returned without EOS. ``random`` decides which."""
        drawn: list[int] = []
        start = 0
        for end in range(1, len(ids) + 1):
            if end == len(ids) or self._begins_word[ids[end]]:
                word = ids[start:end]
                drawn += self._draw(word, random) if self._learned.issuperset(word) else word
                start = end
        return drawn

    def _drop_merges(self, word: Sequence[int], random: Random) -> Sequence[int]:
        """BPE where each merge that comes up is left out with probability alpha."""
        # The number of merges before the first one that is left out. Mostly none is, and the word stays as it is.
        until_drop = int(math.log(1.0 - random.random()) / math.log1p(-self._alpha)) if self._alpha < 1 else 0
        symbols = list("".join(self._pieces[i] for i in word))
        size = len(symbols)
        if until_drop >= size - len(word):
            return word
        before, after = list(range(-1, size - 1)), list(range(1, size + 1))
        ids, scores, alpha = self._ids, self._scores, self._alpha

        def candidates(*lefts: int) -> list[tuple[float, int, int, int]]:
            """The pairs that may be merged: best score first, then from left to right."""
            found = []
            for left in lefts:
                if left >= 0 and (right := after[left]) < size:
                    merged = symbols[left] + symbols[right]
                    if merged in ids:
                        found.append((-scores[merged], left, right, len(merged)))
            return found

        agenda = candidates(*range(size - 1))
        heapify(agenda)
        while agenda:
            _, left, right, length = heappop(agenda)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of them was merged with another neighbour
            until_drop -= 1
            if until_drop == -1 or (until_drop < 0 and random.random() < alpha):
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[right] < size:
                before[after[right]] = left
            for pair in candidates(before[left], left):
                heappush(agenda, pair)
        found = [ids.get(symbol, UNK) for symbol in symbols if symbol]
        return word if UNK in found else found

    def _draw_from_lattice(self, word: Sequence[int], random: Random) -> Sequence[int]:
        """Forward filtering, backward sampling: the probability of a segmentation is that of the model to the power of
        alpha, normalized.
        """
        text = "".join(self._pieces[i] for i in word)
        lattice = (self._cached_lattice if len(text) <= _CACHED_LENGTH else self._build_lattice)(text)
        end, found = len(text), []
        while end:
            cumulative, options = lattice[end]
            choice = bisect_right(cumulative, random.random() * cumulative[-1])
            end, i = options[min(choice, len(options) - 1)]
            found.append(i)
        found.reverse()
        return found

    def _build_lattice(self, text: str) -> _Lattice:
        forward = [0.0]  # logarithm of the summed weights of all segmentations of text[:end]
        lattice: _Lattice = [([], [])]
        for end in range(1, len(text) + 1):
            options, weights = [], []
            for begin in range(max(0, end - self._longest), end):
                piece = text[begin:end]
                if piece in self._ids and forward[begin] > -math.inf:
                    options.append((begin, self._ids[piece]))
                    weights.append(forward[begin] + self._alpha * self._scores[piece])
            top = max(weights, default=-math.inf)
            cumulative = list(accumulate(math.exp(weight - top) for weight in weights))
            lattice.append((cumulative, options))
            forward.append(top + math.log(cumulative[-1]) if cumulative else -math.inf)
        return lattice
