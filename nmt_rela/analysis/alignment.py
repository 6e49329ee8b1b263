"""Word alignment from cross-attention: every head, the head average, normal and shifted, scored as it streams by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nmt_rela.analysis.teacher_forcing import TeacherForcedBatch
from nmt_rela.metrics.word_alignment import AlignmentCounts, GoldAlignment, extract_alignment, format_pharaoh

#: In place of a head's number: the matrix averaged over the heads of the layer.
AVERAGE = -1
MODES = ("normal", "shifted")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerAlignment:
    """The scores of one layer in one mode."""

    layer: int
    mode: str
    heads: tuple[AlignmentCounts, ...]
    average: AlignmentCounts

    @property
    def best_head(self) -> int:
        """The head of the lowest error rate."""
        return min(range(len(self.heads)), key=lambda head: self.heads[head].error_rate)

    @property
    def best(self) -> AlignmentCounts:
        """The counts of that head."""
        return self.heads[self.best_head]


@dataclass(slots=True)
class _Channel:
    """One layer, one head (or the average), one mode."""

    counts: AlignmentCounts = field(default_factory=AlignmentCounts)
    lines: dict[int, str] = field(default_factory=dict)


#: The word of each source and of each target sub-word.
Words = tuple[Sequence[int], Sequence[int]]


class AlignmentConsumer:
    """Reads word links off cross-attention.

    ``words`` gives the word of each sub-word (``alignment.word_ids``) of the pairs, by index. A pair that is not
    in it is left out: its words are not those of the gold alignment. Without ``gold`` only the head averages are kept,
    as Pharaoh lines; with it all heads are kept and scored.
    """

    def __init__(self, words: Mapping[int, Words], gold: Sequence[GoldAlignment] | None = None) -> None:
        self._words = words
        self._gold = gold
        self._channels: dict[tuple[int, int, str], _Channel] = {}

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        if site != "cross":
            return
        together = weights.cpu().numpy()
        for row, pair in enumerate(batch.pairs):
            words = self._words.get(pair.index)
            if words is None:
                continue
            matrices = together[row, :, : len(pair.target), : len(pair.source)]
            self._add(pair.index, layer, AVERAGE, matrices.mean(axis=0), words)
            if self._gold is not None:
                for head, matrix in enumerate(matrices):
                    self._add(pair.index, layer, head, matrix, words)

    def _add(self, index: int, layer: int, head: int, matrix: npt.NDArray[np.float32], words: Words) -> None:
        for mode in MODES:
            found = extract_alignment(matrix, *words, shifted=mode == "shifted")
            channel = self._channels.setdefault((layer, head, mode), _Channel())
            channel.lines[index] = format_pharaoh(found)
            if self._gold is not None:
                channel.counts.add(found, self._gold[index])

    def scores(self) -> list[LayerAlignment]:
        """Scores by mode and layer; nothing without gold links."""
        if self._gold is None:
            return []
        layers = sorted({layer for layer, _, _ in self._channels})
        heads = sorted({head for _, head, _ in self._channels if head != AVERAGE})
        return [
            LayerAlignment(
                layer=layer,
                mode=mode,
                heads=tuple(self._channels[layer, head, mode].counts for head in heads),
                average=self._channels[layer, AVERAGE, mode].counts,
            )
            for mode in MODES
            for layer in layers
        ]

    def pharaoh(self, sentences: int) -> dict[tuple[int, int, str], list[str]]:
        """A line a sentence by (layer, head or AVERAGE, mode); a pair that was left out has an empty one."""
        return {
            key: [channel.lines.get(index, "") for index in range(sentences)]
            for key, channel in sorted(self._channels.items())
        }
