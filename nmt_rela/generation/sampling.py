"""Sequences grown independently of one another: greedy search, and translations sampled token by token.

Shapes: S active sentences, N sequences per sentence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.generation.decoding_step import (
    Hypothesis,
    NextTokenLogProbs,
    SearchConstraints,
    StepDecoder,
    length_penalty_factor,
)
from nmt_rela.generation.options import SamplingOptions


def sample(
    decoder: StepDecoder,
    constraints: SearchConstraints,
    options: SamplingOptions,
    *,
    num_samples: int,
    seeds: Sequence[int],
) -> list[list[Hypothesis]]:
    """``num_samples`` independent sequences per sentence, best score first.

    The random numbers of a sentence depend on ``options.seed`` and on its own seed in ``seeds`` (say, its line
    number), not on its batch. Log-probabilities are the model's own, not those of the tempered, truncated distribution.
    """
    sentences, steps = len(constraints.max_lengths), constraints.max_steps
    # One uniform number per token, turned into a token by the inverse of the cumulative distribution.
    uniforms = torch.empty(sentences, num_samples, steps, dtype=torch.float64)
    for row, seed in enumerate(seeds):
        # The generator uses the lowest 32 bits of a seed only; SeedSequence mixes all bits of both numbers into them.
        mixed = np.random.SeedSequence([options.seed % 2**64, seed]).generate_state(1, np.uint32)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        uniforms[row] = torch.rand(steps, num_samples, dtype=torch.float64, generator=generator).T
    uniforms = uniforms.to(constraints.max_lengths.device)

    def select_token(log_probs: Tensor, step: int, rows: Tensor) -> Tensor:
        return _sample_tokens(
            log_probs / options.temperature, uniforms[rows, :, step], top_k=options.top_k, top_p=options.top_p
        )

    return generate(decoder, constraints, select_token, num_sequences=num_samples)


def _sample_tokens(logits: Tensor, uniforms: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Tokens [...] from logits [..., V] and one uniform number [...] each."""
    ids = None
    if top_k:
        logits, ids = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    elif top_p < 1.0:
        logits, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = logits.double().softmax(dim=-1)
    if top_p < 1.0:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    threshold = (uniforms * cumulative[..., -1]).unsqueeze(-1)
    positions = torch.searchsorted(cumulative, threshold, right=True)
    positions = positions.clamp(max=logits.shape[-1] - 1)  # logits that are not finite are reported by the caller
    return (positions if ids is None else ids.gather(-1, positions)).squeeze(-1)


def greedy_search(decoder: StepDecoder, constraints: SearchConstraints) -> list[list[Hypothesis]]:
    """The most probable token at every step: a list of one sequence per sentence."""
    return generate(decoder, constraints, lambda log_probs, step, rows: log_probs.argmax(dim=2), num_sequences=1)


def generate(
    decoder: StepDecoder,
    constraints: SearchConstraints,
    select_token: Callable[[Tensor, int, Tensor], Tensor],
    *,
    num_sequences: int,
) -> list[list[Hypothesis]]:
    """Grow ``num_sequences`` independent sequences per sentence by the tokens that ``select_token`` picks.

    ``select_token(log_probs [S, N, V], step, rows [S]) → [S, N]``: tokens that it must not pick have −∞; ``rows`` are
    the positions of the active sentences in the whole batch. A sequence ends at its first EOS.
    """
    max_lengths, steps = constraints.max_lengths, constraints.max_steps
    sentences, device = len(max_lengths), max_lengths.device
    if sentences == 0:
        return []
    next_log_probs = NextTokenLogProbs(constraints)
    all_tokens = torch.full((sentences, num_sequences, steps), PAD, dtype=torch.long, device=device)
    all_log_probs = torch.zeros((sentences, num_sequences, steps), device=device)
    rows = torch.arange(sentences, device=device)
    tokens = torch.full((sentences, 1), BOS, dtype=torch.long, device=device)
    ended = torch.zeros((sentences, num_sequences), dtype=torch.bool, device=device)
    for step in range(steps):
        log_probs = next_log_probs(decoder.step(tokens), step, rows)
        if step == 0 and num_sequences > 1:  # all sequences have the same first distribution
            decoder.reorder(torch.zeros_like(ended, dtype=torch.long))
            log_probs = log_probs.expand(-1, num_sequences, -1)
        tokens = select_token(log_probs, step, rows)
        all_log_probs[rows, :, step] = log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2).masked_fill(ended, 0.0)
        tokens = tokens.masked_fill(ended, PAD)
        all_tokens[rows, :, step] = tokens
        ended = ended | (tokens == EOS) | (max_lengths <= step + 1).unsqueeze(1)
        if constraints.is_check_due(step) and step + 1 < steps:
            done = ended.all(dim=1)
            num_done = int(done.sum())
            if num_done == len(rows):
                break
            if num_done:
                kept = (~done).nonzero().squeeze(1)
                decoder.select_sentences(kept)
                rows, max_lengths, tokens, ended = rows[kept], max_lengths[kept], tokens[kept], ended[kept]
    found = []
    for sentence_tokens, sentence_log_probs in zip(all_tokens.tolist(), all_log_probs.tolist(), strict=True):
        sequences = zip(sentence_tokens, sentence_log_probs, strict=True)
        hypotheses = [_hypothesis(tokens, log_probs, constraints.length_penalty) for tokens, log_probs in sequences]
        found.append(sorted(hypotheses, key=lambda hypothesis: -hypothesis.score))
    return found


def _hypothesis(tokens: list[int], log_probs: list[float], length_penalty: float) -> Hypothesis:
    length = tokens.index(PAD) if PAD in tokens else len(tokens)
    total = sum(log_probs[:length])
    return Hypothesis(
        tokens=tuple(tokens[:length]),
        score=total / length_penalty_factor(length, length_penalty),
        log_probability=total,
        token_log_probabilities=tuple(log_probs[:length]),
    )
