"""From links between words to links between the sub-words of a batch, whatever the segmentation of its sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.tokenizer import BOS, EOS, PAD, WORD_START, SentencePieceTokenizer, TokenizerPair
from nmt_rela.metrics.word_alignment import words_of_subwords


class SubwordLinks:
    """The word links of the training pairs. A call finds those of a batch (`data.data_loader.FindLinks`).

    All sub-words of a source word are linked to all of a target word that it has a link with. Links of words that
    truncation has cut off are left out.

    Args:
        links: the dataset of ``preparation/links.py``.
        spaced: whether source and target language have spaces between words.
    """

    def __init__(self, links: Path, tokenizers: TokenizerPair, *, spaced: tuple[bool, bool]) -> None:
        self._links = ParallelDataset(links)
        self.fingerprint = self._links.fingerprint
        self._words = tuple(
            _Words(tokenizer, spaced=has_spaces)
            for tokenizer, has_spaces in zip((tokenizers.source, tokenizers.target), spaced, strict=True)
        )

    def __call__(
        self, indices: NDArray[np.integer], source: NDArray[np.int64], target: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Sorted indices into the flattened [sentences, target length, source length], each once."""
        if not len(indices):
            return np.empty(0, dtype=np.int64)
        sides = [[side[index][:-1] for index in indices] for side in (self._links.sources, self._links.targets)]
        sentences = np.repeat(np.arange(len(indices)), [len(numbers) for numbers in sides[0]])
        columns, firsts, counts = [], [], []
        for numbers, words, rows in zip(sides, self._words, (source, target), strict=True):
            of_link = np.concatenate(numbers).astype(np.int64)
            keys, positions = words.positions(rows)
            stride = max(int(keys[:, 1].max(initial=0)), int(of_link.max(initial=0))) + 1
            sorted_keys = keys[:, 0] * stride + keys[:, 1]
            wanted = sentences * stride + of_link
            first = np.searchsorted(sorted_keys, wanted, side="left")
            columns.append(positions)
            firsts.append(first)
            counts.append(np.searchsorted(sorted_keys, wanted, side="right") - first)
        # Every link becomes the product of the sub-words of its words.
        products = counts[0] * counts[1]
        link = np.repeat(np.arange(len(products)), products)
        within = np.arange(len(link)) - np.repeat(np.cumsum(products) - products, products)
        source_columns = columns[0][firsts[0][link] + within % counts[0][link]]
        target_columns = columns[1][firsts[1][link] + within // counts[0][link]]
        found: NDArray[np.int64] = np.unique(
            (sentences[link] * target.shape[1] + target_columns) * source.shape[1] + source_columns
        )
        return found


class _Words:
    """The words of the sub-words of one side, as `words_of_subwords` counts them."""

    def __init__(self, tokenizer: SentencePieceTokenizer, *, spaced: bool) -> None:
        self._tokenizer, self._spaced = tokenizer, spaced
        pieces = tokenizer.vocabulary
        self._starts = np.array([piece.startswith(WORD_START) for piece in pieces])
        self._is_blank = np.array([piece.strip(WORD_START) == "" for piece in pieces])

    def positions(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(sentence, word) in ascending order, [n, 2], and the column of a sub-word that belongs to the word."""
        if not self._spaced:
            return self._positions_of_characters(rows)
        # A word begins where a sub-word starts with ▁, unless nothing but ▁ stands before it in the word.
        begins = self._starts[rows]
        begins[:, 1:] &= ~(self._is_blank[rows] & self._starts[rows])[:, :-1]
        begins[:, 0] = True
        words = begins.cumsum(axis=1) - 1
        sentences, columns = np.nonzero((rows != PAD) & (rows != EOS) & (rows != BOS))
        return np.stack([sentences, words[sentences, columns]], axis=1), columns

    def _positions_of_characters(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = sorted(
            (sentence, word, column)
            for sentence, row in enumerate(rows)
            for column, words in enumerate(
                words_of_subwords(self._tokenizer.convert_ids_to_pieces(row[row != PAD]), spaced=False)
            )
            for word in words
        )
        table = np.array(found, dtype=np.int64).reshape(-1, 3)
        return table[:, :2], table[:, 2]
