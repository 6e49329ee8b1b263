"""Forced decoding: what the model thinks of a given translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import EOS, PAD, TokenizerPair
from nmt_rela.generation.batching import batch_by_tokens
from nmt_rela.generation.ensemble import mean_log_probability
from nmt_rela.generation.translation import ScoringResult

if TYPE_CHECKING:
    from nmt_rela.models.transformer import Transformer


def score_lines(
    models: Sequence[Transformer],
    vocabularies: TokenizerPair,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    batch_tokens: int,
    device: torch.device,
) -> list[ScoringResult]:
    """The score of each target line given its source line, in order; ``batch_tokens`` are padded tokens of the longer
    side.
    """
    source_ids = [[*ids, EOS] for ids in vocabularies.source.encode(sources)]
    target_ids = [[*ids, EOS] for ids in vocabularies.target.encode(targets)]
    lengths = [max(len(source), len(target)) for source, target in zip(source_ids, target_ids, strict=True)]
    scores: dict[int, ScoringResult] = {}
    for batch in batch_by_tokens(lengths, batch_tokens):
        source = pad_sequences([source_ids[i] for i in batch]).to(device)
        target = pad_sequences([target_ids[i] for i in batch]).to(device)
        with torch.inference_mode():
            found = forced_log_probabilities(models, source, target).tolist()
        for i, gains in zip(batch, found, strict=True):
            gains = gains[: len(target_ids[i])]
            scores[i] = ScoringResult(
                log_probability=sum(gains),
                tokens=tuple(vocabularies.target.pieces(target_ids[i])),
                token_log_probabilities=tuple(gains),
            )
    return [scores[i] for i in range(len(lengths))]


def forced_log_probabilities(models: Sequence[Transformer], source: Tensor, target: Tensor) -> Tensor:
    """Log-probability (nats) of every target token given those before it, 0 at padding: [B, S], [B, T] → float32 [B,
    T].

    Both sides end in EOS and are padded with PAD. Several models give the mean of their probabilities.
    """
    valid = target != PAD
    gains = []
    for model in models:
        states = model(source, model.shift(target))
        logits = model.project(states[valid]).float()  # padding costs no projection
        gains.append(logits.log_softmax(dim=1).gather(1, target[valid].unsqueeze(1)).squeeze(1))
    scores = torch.zeros(target.shape, device=target.device)
    scores[valid] = mean_log_probability(gains)
    return scores
