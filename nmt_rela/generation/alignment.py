"""Word links of translations, read from cross-attention while the model is made to repeat them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import Vocabulary
from nmt_rela.generation.hypothesis import Hypothesis
from nmt_rela.metrics.word_alignment import Link, extract_alignment, word_ids
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentOptions:
    """Which cross-attention word links are read from, with the translation forced through the decoder.

    By default the mean over the heads, at the step that predicts the word, of the layer at five sixths of the depth:
    the fifth of the paper's six, where links from that step are best, and the last of shallow decoders. Layers and
    heads count from 0.
    """

    layer: int | None = None
    head: int | None = None
    #: Read the step that takes the word in, which is better in the lower layers.
    shifted: bool = False


class WordAligner:
    """Finds word links with the models of a translator; an ensemble gives the mean of its attention."""

    def __init__(self, models: Sequence[Transformer], target: Vocabulary, *, device: torch.device) -> None:
        self._models, self._target, self._device = tuple(models), target, device
        self._observed: tuple[Transformer, ...] | None = None
        self._observing = threading.Lock()

    def check(self, choice: AlignmentOptions) -> None:
        """Raise ConfigError for a layer or head that a model does not have."""
        for model in self._models:
            cross = [module for (site, _), module in model.attention_modules().items() if site == "cross"]
            if choice.layer is not None and not 0 <= choice.layer < len(cross):
                raise ConfigError(f"alignment layer: found {choice.layer}; accepted: 0 to {len(cross) - 1}")
            if choice.head is not None and not 0 <= choice.head < cross[0].heads:
                raise ConfigError(f"alignment head: found {choice.head}; accepted: 0 to {cross[0].heads - 1}")

    def links(
        self,
        sources: Sequence[tuple[Sequence[int], Sequence[int]]],
        found: Sequence[Sequence[Hypothesis]],
        choice: AlignmentOptions,
    ) -> list[list[frozenset[Link]]]:
        """The links of every hypothesis. ``sources`` are sub-word ids, EOS included, with the word of each."""
        pairs = [
            (ids, groups, hypothesis)
            for (ids, groups), hypotheses in zip(sources, found, strict=True)
            for hypothesis in hypotheses
        ]
        source = pad_sequences([ids for ids, _, _ in pairs]).to(self._device)
        target = pad_sequences([hypothesis.tokens for _, _, hypothesis in pairs]).to(self._device)
        with self._observing:
            matrices = [_attention(model, source, target, choice) for model in self._observed_models()]
        weights = torch.stack(matrices).mean(dim=0).cpu().numpy()
        links = iter(
            extract_alignment(
                weights[row, : len(hypothesis.tokens), : len(ids)],
                groups,
                word_ids(self._target.pieces(hypothesis.tokens)),
                shifted=choice.shifted,
            )
            for row, (ids, groups, hypothesis) in enumerate(pairs)
        )
        return [[next(links) for _ in hypotheses] for hypotheses in found]

    def _observed_models(self) -> tuple[Transformer, ...]:
        """The same parameters in modules of their own, so that observing disturbs no other thread."""
        if self._observed is None:
            tensors = chain.from_iterable((*model.parameters(), *model.buffers()) for model in self._models)
            shared = {id(tensor): tensor for tensor in tensors}
            self._observed = tuple(copy.deepcopy(model, dict(shared)) for model in self._models)
        return self._observed


def _attention(model: Transformer, source: Tensor, target: Tensor, choice: AlignmentOptions) -> Tensor:
    """Cross-attention [B, T, S] as chosen, float32, while the model reads a given target."""
    layer = max(round(len(model.decoder) * 5 / 6) - 1, 0) if choice.layer is None else choice.layer
    module = model.attention_modules()["cross", layer]
    seen: list[Tensor] = []
    module.observer = seen.append
    try:
        model(source, model.shift(target))
    finally:
        module.observer = None
    return seen[0].mean(dim=1) if choice.head is None else seen[0][:, choice.head]
