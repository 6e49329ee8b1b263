"""The attention weights of chosen sentence pairs, collected during a teacher-forced pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nmt_rela.analysis.teacher_forcing import TeacherForcedBatch
from nmt_rela.models.transformer import ATTENTION_SITES

#: float32 weights [layers, heads, queries, keys] of one sentence pair, by site.
SentenceWeights = Mapping[str, npt.NDArray[np.float32]]


class WeightRecorder:
    """An attention consumer that passes the weights of each chosen pair on when those of all layers have arrived.

    Args:
        indices: the pairs to record.
        num_modules: attention modules of the model.
        on_complete: is called with the index of a pair and its weights, once per pair.
    """

    def __init__(
        self, indices: Collection[int], num_modules: int, on_complete: Callable[[int, SentenceWeights], None]
    ) -> None:
        self._indices, self._num_modules, self._on_complete = frozenset(indices), num_modules, on_complete
        self._pending: dict[int, dict[tuple[str, int], npt.NDArray[np.float32]]] = {}

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        for row, pair in enumerate(batch.pairs):
            if pair.index not in self._indices:
                continue
            queries = len(pair.source if site == "encoder" else pair.target)
            keys = len(pair.target if site == "decoder" else pair.source)
            layers = self._pending.setdefault(pair.index, {})
            layers[site, layer] = weights[row, :, :queries, :keys].cpu().numpy().copy()
            if len(layers) == self._num_modules:
                del self._pending[pair.index]
                sites = {site: [layers[key] for key in sorted(layers) if key[0] == site] for site in ATTENTION_SITES}
                self._on_complete(pair.index, {site: np.stack(found) for site, found in sites.items()})
