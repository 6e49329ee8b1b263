"""Word alignment from cross-attention, per head and averaged over the heads of a layer, scored against gold links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nmt_rela.analysis.teacher_forcing import TeacherForcedBatch
from nmt_rela.metrics.word_alignment import AlignmentCounts, GoldAlignment, format_pharaoh, link_words

#: Stands for the matrix averaged over the heads of a layer where a head number is expected.
AVERAGE = -1
#: The decoder step whose row links a word: the one that predicts it, or the next one, which reads it.
MODES = ("normal", "shifted")
#: The words of every source and of every target sub-word (``words_of_subwords``).
PairWords = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]
#: (layer, head or AVERAGE, mode)
Channel = tuple[int, int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerAlignment:
    """The alignment scores of one layer in one mode."""

    layer: int
    mode: str
    heads: tuple[AlignmentCounts, ...]
    average: AlignmentCounts

    @property
    def best_head(self) -> int:
        """The head with the lowest error rate."""
        return min(range(len(self.heads)), key=lambda head: self.heads[head].error_rate)

    @property
    def best(self) -> AlignmentCounts:
        """The scores of that head."""
        return self.heads[self.best_head]


class AlignmentConsumer:
    """An attention consumer that extracts word links from cross-attention and scores them.

    Args:
        words: the words of the pairs, by index. A pair that is absent is left out.
        gold: the gold alignment of every sentence, by index. Without it only the head averages are aligned.
    """

    def __init__(self, words: Mapping[int, PairWords], gold: Sequence[GoldAlignment] | None = None) -> None:
        self._words = words
        self._gold = gold
        self._lines: dict[Channel, dict[int, str]] = defaultdict(dict)
        self._counts: dict[Channel, AlignmentCounts] = defaultdict(AlignmentCounts)

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        if site != "cross":
            return
        matrices = weights.cpu().numpy()
        for row, pair in enumerate(batch.pairs):
            if pair.index not in self._words:
                continue
            heads = matrices[row, :, : len(pair.target), : len(pair.source)]
            self._add(pair.index, layer, AVERAGE, heads.mean(axis=0))
            if self._gold is not None:
                for head, matrix in enumerate(heads):
                    self._add(pair.index, layer, head, matrix)

    def _add(self, index: int, layer: int, head: int, matrix: npt.NDArray[np.float32]) -> None:
        for mode in MODES:
            links = link_words(matrix, *self._words[index], shifted=mode == "shifted")
            self._lines[layer, head, mode][index] = format_pharaoh(links)
            if self._gold is not None:
                self._counts[layer, head, mode].add(links, self._gold[index])

    def scores(self) -> list[LayerAlignment]:
        """Scores by mode and layer; empty without gold alignments."""
        layers = sorted({layer for layer, _, _ in self._counts})
        heads = sorted({head for _, head, _ in self._counts if head != AVERAGE})
        return [
            LayerAlignment(
                layer=layer,
                mode=mode,
                heads=tuple(self._counts[layer, head, mode] for head in heads),
                average=self._counts[layer, AVERAGE, mode],
            )
            for mode in MODES
            for layer in layers
        ]

    def pharaoh(self, sentences: int) -> dict[Channel, list[str]]:
        """One Pharaoh line per sentence for each channel. The line of a pair that was left out is empty."""
        return {
            channel: [lines.get(index, "") for index in range(sentences)]
            for channel, lines in sorted(self._lines.items())
        }
