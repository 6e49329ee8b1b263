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
    SUPPRESSED_TOKENS,
    PrefixConstraint,
    StepDecoder,
    steps_between_checks,
    suppress_,
)
from nmt_rela.generation.hypothesis import Hypothesis, length_penalty_factor
from nmt_rela.generation.options import SamplingOptions


def sample(
    decoder: StepDecoder,
    options: SamplingOptions,
    *,
    num_samples: int,
    seeds: Sequence[int],
    max_lengths: Tensor,
    length_penalty: float = 0.6,
    min_length: int = 0,
    prefixes: Sequence[Sequence[int]] | None = None,
    suppress_tokens: Sequence[int] = SUPPRESSED_TOKENS,
    check_every: int | None = None,
) -> list[list[Hypothesis]]:
    """``num_samples`` independent sequences per sentence, best score first. Other arguments as in ``beam_search``.

    The random numbers of a sentence depend on ``options.seed`` and on its own seed in ``seeds`` (say, its line
    number), not on its batch. Log-probabilities are the model's own, not those of the tempered, truncated distribution.
    """
    sentences = len(max_lengths)
    steps = int(max_lengths.max()) if sentences else 0
    # One uniform number per token, turned into a token by the inverse of the cumulative distribution.
    uniforms = torch.empty(sentences, num_samples, steps, dtype=torch.float64)
    for row, seed in enumerate(seeds):
        # The generator uses the lowest 32 bits of a seed only; SeedSequence mixes all bits of both numbers into them.
        mixed = np.random.SeedSequence([options.seed % 2**64, seed]).generate_state(1, np.uint32)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        uniforms[row] = torch.rand(steps, num_samples, dtype=torch.float64, generator=generator).T
    uniforms = uniforms.to(max_lengths.device)

    def select_token(logits: Tensor, step: int, rows: Tensor) -> Tensor:
        return _sample_tokens(
            logits / options.temperature, uniforms[rows, :, step], top_k=options.top_k, top_p=options.top_p
        )

    return generate(
        decoder, select_token, num_sequences=num_samples, max_lengths=max_lengths, length_penalty=length_penalty,
        min_length=min_length, prefixes=prefixes, suppress_tokens=suppress_tokens, check_every=check_every,
    )  # fmt: skip


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
    return (positions if ids is None else ids.gather(-1, positions)).squeeze(-1)


def greedy_search(
    decoder: StepDecoder,
    *,
    max_lengths: Tensor,
    length_penalty: float = 0.6,
    min_length: int = 0,
    prefixes: Sequence[Sequence[int]] | None = None,
    suppress_tokens: Sequence[int] = SUPPRESSED_TOKENS,
    check_every: int | None = None,
) -> list[list[Hypothesis]]:
    """The most probable token at every step: a list of one sequence per sentence. Arguments as in ``beam_search``."""
    return generate(
        decoder, lambda logits, step, rows: logits.argmax(dim=2), num_sequences=1, max_lengths=max_lengths,
        length_penalty=length_penalty, min_length=min_length, prefixes=prefixes, suppress_tokens=suppress_tokens,
        check_every=check_every,
    )  # fmt: skip


def generate(
    decoder: StepDecoder,
    select_token: Callable[[Tensor, int, Tensor], Tensor],
    *,
    num_sequences: int,
    max_lengths: Tensor,
    length_penalty: float,
    min_length: int,
    prefixes: Sequence[Sequence[int]] | None = None,
    suppress_tokens: Sequence[int] = SUPPRESSED_TOKENS,
    check_every: int | None = None,
) -> list[list[Hypothesis]]:
    """Grow ``num_sequences`` independent sequences per sentence by the tokens that ``select_token`` picks.

    ``select_token(logits [S, N, V], step, rows [S]) → [S, N]``: tokens that it must not pick have logit −∞; ``rows``
    are the positions of the active sentences in the whole batch. A sequence ends at its first EOS. Other arguments as
    in ``beam_search``.
    """
    sentences = len(max_lengths)
    if sentences == 0:
        return []
    device = max_lengths.device
    check_every = check_every or steps_between_checks(device)
    steps = int(max_lengths.max())
    prefix = PrefixConstraint(prefixes, steps, device) if prefixes is not None else None
    suppressed = torch.tensor(suppress_tokens, dtype=torch.long, device=device)
    all_tokens = torch.full((sentences, num_sequences, steps), PAD, dtype=torch.long, device=device)
    all_log_probs = torch.zeros((sentences, num_sequences, steps), device=device)
    rows = torch.arange(sentences, device=device)
    tokens = torch.full((sentences, 1), BOS, dtype=torch.long, device=device)
    ended = torch.zeros((sentences, num_sequences), dtype=torch.bool, device=device)
    for step in range(steps):
        logits = decoder.step(tokens)
        log_normalizer = logits.logsumexp(dim=2)
        forced = prefix.at(step, rows) if prefix else None
        if forced is not None:  # read their log-probabilities before tokens are suppressed
            is_forced, forced_tokens = (values.unsqueeze(1) for values in forced)
            forced_log_probs = logits.gather(2, forced_tokens.unsqueeze(2).expand(-1, logits.shape[1], 1)).squeeze(2)
            forced_log_probs = forced_log_probs - log_normalizer
        suppress_(logits, suppressed, allow_eos=step >= max(1, min_length))
        if step == 0 and num_sequences > 1:  # all sequences have the same first distribution
            decoder.reorder(torch.zeros_like(ended, dtype=torch.long))
            logits = logits.expand(-1, num_sequences, -1)
        tokens = select_token(logits, step, rows)
        log_probs = logits.gather(2, tokens.unsqueeze(2)).squeeze(2) - log_normalizer
        if forced is not None:
            tokens = torch.where(is_forced, forced_tokens, tokens)
            log_probs = torch.where(is_forced, forced_log_probs, log_probs)
        tokens = tokens.masked_fill(ended, PAD)
        all_tokens[rows, :, step] = tokens
        all_log_probs[rows, :, step] = log_probs.masked_fill(ended, 0.0)
        ended = ended | (tokens == EOS) | (max_lengths <= step + 1).unsqueeze(1)
        if (step + 1) % check_every == 0 and step + 1 < steps:
            done = ended.all(dim=1)
            num_done = int(done.sum())
            if num_done == len(rows):
                break
            if num_done:
                kept = (~done).nonzero().squeeze(1)
                decoder.select_sentences(kept)
                rows, max_lengths, tokens, ended = rows[kept], max_lengths[kept], tokens[kept], ended[kept]
    return [
        sorted(
            (_hypothesis(*sequence, length_penalty) for sequence in zip(sentence_tokens, log_probs, strict=True)),
            key=lambda hypothesis: -hypothesis.score,
        )
        for sentence_tokens, log_probs in zip(all_tokens.tolist(), all_log_probs.tolist(), strict=True)
    ]


def _hypothesis(tokens: list[int], log_probs: list[float], length_penalty: float) -> Hypothesis:
    length = tokens.index(PAD) if PAD in tokens else len(tokens)
    total = sum(log_probs[:length])
    return Hypothesis(
        tokens=tuple(tokens[:length]),
        score=total / length_penalty_factor(length, length_penalty),
        log_probability=total,
        token_log_probabilities=tuple(log_probs[:length]),
    )
