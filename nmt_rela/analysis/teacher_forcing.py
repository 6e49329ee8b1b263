"""Teacher forcing: the model reads sentence pairs, and consumers receive its attention weights batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import EOS, PAD, TokenizerPair
from nmt_rela.generation.batching import batch_by_tokens
from nmt_rela.metrics.attention_sparsity import valid_positions
from nmt_rela.metrics.forced_log_probs import forced_log_probs
from nmt_rela.models.attention_capture import observe_attention
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer

#: float32 weights [layers, heads, queries, keys] of one sentence pair, by site.
SentenceWeights = Mapping[str, npt.NDArray[np.float32]]
#: Weights per head and layer in a batch. With 8 heads a tensor of weights takes 8 MiB; the statistics need a few.
_BATCH_POSITIONS = 1 << 18
#: A padded sub-word counts as this many weights. It bounds a batch of short sentences to 8,192 padded sub-words, whose
#: feed-forward activations in a base model take 64 MiB.
_SUBWORD_COST = 32


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A sentence pair as sub-word ids, both sides with EOS, and its line number in the text, counted from 0."""

    index: int
    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Sub-words of the longer side."""
        return max(len(self.source), len(self.target))


@dataclass(frozen=True, slots=True)
class TeacherForcedBatch:
    """Pairs and their padded ids: ``source`` [batch, source length] and ``target`` [batch, target length]."""

    pairs: Sequence[EncodedPair]
    source: Tensor
    target: Tensor

    def valid(self, site: str) -> Tensor:
        """The valid positions at ``site``, bool [batch, queries, keys]."""
        return valid_positions(site, self.source != PAD, self.target != PAD)


#: Receives (batch, site, layer, weights). The weights [batch, heads, queries, keys] are float32, and 0 at masked keys.
AttentionConsumer = Callable[[TeacherForcedBatch, str, int, Tensor], None]


def encode_pairs(lines: Sequence[tuple[str, str]], tokenizers: TokenizerPair) -> list[EncodedPair]:
    """The sub-word ids of every line pair, with EOS."""
    sources = tokenizers.source.encode([source for source, _ in lines])
    targets = tokenizers.target.encode([target for _, target in lines])
    return [
        EncodedPair(index, (*source, EOS), (*target, EOS))
        for index, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]


def batch_pairs(pairs: Sequence[EncodedPair], max_positions: int = _BATCH_POSITIONS) -> Iterator[list[EncodedPair]]:
    """Batches of pairs of similar length, longest first, with at most ``max_positions`` weights (or one pair)."""
    costs = [max(pair.longest**2, _SUBWORD_COST * pair.longest) for pair in pairs]
    for members in batch_by_tokens(costs, max_positions):
        yield [pairs[member] for member in members]


@torch.inference_mode()
def teacher_forced_pass(
    model: Transformer,
    pairs: Sequence[EncodedPair],
    consumers: Sequence[AttentionConsumer] = (),
    *,
    progress: Callable[[int], object] | None = None,
) -> npt.NDArray[np.float64]:
    """The log-probability (nats) of every target, in the order of ``pairs``, whose indices must differ.

    The attention weights of every layer are passed to every consumer. ``progress`` is called with the number of pairs
    of each batch. Memory is bounded by the longest pair. The model stays in its mode (eval) and on its device.
    """
    device = next(model.parameters()).device
    sums: dict[int, float] = {}
    for members in batch_pairs(pairs):
        source = pad_sequences([pair.source for pair in members]).to(device)
        target = pad_sequences([pair.target for pair in members]).to(device)
        batch = TeacherForcedBatch(members, source, target)

        def consume(site: str, layer: int, weights: Tensor, batch: TeacherForcedBatch = batch) -> None:
            for consumer in consumers:
                consumer(batch, site, layer, weights)

        # Without consumers nothing is observed, so that the model may use its fastest backend.
        with observe_attention(model, consume) if consumers else nullcontext():
            log_probs = forced_log_probs(model, source, target).double().sum(1).tolist()
        sums |= zip([pair.index for pair in members], log_probs, strict=True)
        if progress is not None:
            progress(len(members))
    return np.array([sums[pair.index] for pair in pairs])


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
