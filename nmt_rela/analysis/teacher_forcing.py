"""Teacher forcing: run a model over sentence pairs and hand its attention, batch by batch, to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt_rela.analysis.capture import observe_attention
from nmt_rela.analysis.statistics import AttentionStatistics
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import EOS, PAD, TokenizerPair
from nmt_rela.metrics.attention_sparsity import null_rows, valid_positions
from nmt_rela.models.transformer import Transformer

# Weights of one head at one site in a batch: with 8 heads a tensor of 8 MiB, and the statistics need a few of them.
_BATCH_POSITIONS = 1 << 18
# Padded sub-words in a batch: the feed-forward activations of a base model take 64 MiB.
_BATCH_TOKENS = 1 << 13
# Rows of logits made at a time: 64 MiB with a vocabulary of 32,000.
_LOGIT_ROWS = 512


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence pair as sub-word ids, both sides ending in EOS, and its place in the text."""

    index: int
    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Sub-words of the longer side."""
        return max(len(self.source), len(self.target))


@dataclass(frozen=True, slots=True)
class TeacherForcedBatch:
    """Some pairs, padded: ``source`` [B, S] and ``target`` [B, T] with EOS."""

    pairs: Sequence[Pair]
    source: Tensor
    target: Tensor

    def valid(self, site: str) -> Tensor:
        """Where attention at ``site`` may look: bool [B, Q, K]."""
        return valid_positions(site, self.source != PAD, self.target != PAD)


#: Gets the weights [B, H, Q, K] of one layer, float32, 0 at keys that are not valid.
AttentionConsumer = Callable[[TeacherForcedBatch, str, int, Tensor], None]


class Progress(Protocol):
    """A progress display."""

    def update(self, count: int) -> object: ...


def encode_pairs(lines: Sequence[tuple[str, str]], vocabularies: TokenizerPair) -> list[Pair]:
    """Sub-word ids of every line pair, EOS appended."""
    sources = vocabularies.source.encode([source for source, _ in lines])
    targets = vocabularies.target.encode([target for _, target in lines])
    return [
        Pair(index, (*source, EOS), (*target, EOS))
        for index, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]


def batches(
    pairs: Iterable[Pair], *, positions: int = _BATCH_POSITIONS, tokens: int = _BATCH_TOKENS
) -> Iterator[list[Pair]]:
    """Pairs of like length together, within bounds of sentences × longest² and sentences × longest (or one pair)."""
    batch: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: pair.longest):
        if batch and (len(batch) + 1) * pair.longest > min(tokens, positions // pair.longest):
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch


def target_log_probabilities(model: Transformer, states: Tensor, target: Tensor) -> Tensor:
    """log p of every target sub-word [B, T], 0 at padding, from decoder ``states`` [B, T, d]; logits made in slices."""
    rows, wanted = states.flatten(0, 1), target.flatten()
    found = [
        model.project(rows[start : start + _LOGIT_ROWS])
        .float()
        .log_softmax(-1)
        .gather(1, wanted[start : start + _LOGIT_ROWS, None])[:, 0]
        for start in range(0, len(rows), _LOGIT_ROWS)
    ]
    return torch.cat(found).view_as(target) * (target != PAD)


@torch.inference_mode()
def teacher_forced_pass(
    model: Transformer,
    pairs: Sequence[Pair],
    consumers: Sequence[AttentionConsumer] = (),
    *,
    progress: Progress | None = None,
) -> npt.NDArray[np.float64]:
    """Read every pair once; the summed log-probability of each target, in the order of ``pairs``.

    Memory is bounded by the longest pair, not by their number. The model is used in the mode (eval) and on the device
    that it is in.
    """
    device = next(model.parameters()).device
    place = {pair.index: row for row, pair in enumerate(pairs)}
    found = np.zeros(len(pairs))
    for members in batches(pairs):
        batch = TeacherForcedBatch(
            members,
            pad_sequences([pair.source for pair in members]).to(device),
            pad_sequences([pair.target for pair in members]).to(device),
        )

        if consumers:
            with observe_attention(model, partial(_tell, consumers, batch)):
                states = model(batch.source, model.shift(batch.target))
        else:
            states = model(batch.source, model.shift(batch.target))
        sums = target_log_probabilities(model, states, batch.target).double().sum(1)
        found[[place[pair.index] for pair in members]] = sums.cpu().numpy()
        if progress is not None:
            progress.update(len(members))
    return found


def _tell(
    consumers: Sequence[AttentionConsumer], batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor
) -> None:
    for consumer in consumers:
        consumer(batch, site, layer, weights)


class StatisticsConsumer:
    """Streams the weights into ``AttentionStatistics``, and keeps the null rate of every sentence and head."""

    def __init__(self) -> None:
        self.statistics = AttentionStatistics()
        self._null_rates: dict[tuple[str, int], dict[int, npt.NDArray[np.float32]]] = {}

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        valid = batch.valid(site)
        self.statistics.add(site, layer, weights, valid)
        queries = valid.any(-1).sum(-1)
        rates = (null_rows(weights, valid).sum(-1) / queries[:, None]).float().cpu().numpy()
        kept = self._null_rates.setdefault((site, layer), {})
        for pair, rate in zip(batch.pairs, rates, strict=True):
            kept[pair.index] = rate.copy()

    def null_rates(self, pairs: Sequence[Pair]) -> dict[tuple[str, int], npt.NDArray[np.float32]]:
        """Share of null rows [sentences, heads] by site and layer, in the order of ``pairs``."""
        return {key: np.stack([rates[pair.index] for pair in pairs]) for key, rates in self._null_rates.items()}
