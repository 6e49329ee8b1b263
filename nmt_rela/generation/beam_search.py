"""Beam search and greedy search on logits alone.

The model is anything that speaks the three verbs of ``SearchState``; text, vocabularies and networks are not known
here. Shape legend: S sentences still searched, B beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.generation.beam_candidates import (
    FORBIDDEN,
    PrefixConstraint,
    constrained_log_softmax,
    forbid,
    top_candidates,
)
from nmt_rela.generation.hypothesis import Hypothesis, Trace, length_penalty_factor

#: Steps between two looks at what has finished. On an accelerator a look is a synchronisation with the host.
CHECK_EVERY = {"cpu": 1}
CHECK_EVERY_ELSEWHERE = 4

_NEVER = float("-inf")


class SearchState(Protocol):
    """A decoder in the middle of its work: S sentences with B beams each."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` [S, B] (BOS [S, 1] at the first call) and return float32 logits [S, B, V], which the
        caller may overwrite.
        """

    def reorder(self, beams: Tensor) -> None:
        """Let beam b of sentence s continue what was its beam ``beams[s, b]``; there may be more beams than before."""

    def keep(self, sentences: Tensor) -> None:
        """Go on with these sentences (positions in the batch, ascending) only."""


def beam_search(
    state: SearchState,
    *,
    sentences: int,
    beams: int,
    max_lengths: Tensor,
    length_penalty: float = 0.6,
    min_length: int = 0,
    n_best: int = 1,
    early_stopping: bool = False,
    prefixes: Sequence[Sequence[int]] | None = None,
    forbidden: Sequence[int] = FORBIDDEN,
) -> list[list[Hypothesis]]:
    """The ``n_best`` sequences of highest score that a beam finds, best first, for each sentence.

    ``max_lengths`` [sentences] is the number of tokens, EOS included, at which a hypothesis is cut; it lies on the
    device of the state. EOS is forbidden until ``max(1, min_length)`` other tokens are out; ``forbidden`` tokens
    never appear (their probability is not given to the others). ``prefixes`` are tokens that every hypothesis of a
    sentence must begin with.

    The rules are the paper's: 2·beams candidates a step, those that end join the pool of finished ones, and what
    reaches the maximum length counts as finished. A sentence ends when its n_best-th finished score is at least the
    best unfinished log-probability over the penalty at maximum length: scores only sink and penalties only grow, so
    nothing found later could enter the n_best. (The paper waits for the whole pool; the n_best are the same.) A beam
    of one is greedy search and ends with its first EOS.

    With ``early_stopping``, a sentence ends at the latest when its pool holds as many as there are beams, and only what
    ends among the best B candidates of a step joins the pool: the rule of fairseq and CTranslate2. It is faster, and
    under penalties that favour length more than the model does, it keeps the search from going on to the maximum
    length.

    Results do not depend on the other sentences of the batch. Ties go to the better beam, then to the smaller token.
    """
    assert 1 <= n_best <= beams
    assert max_lengths.shape == (sentences,)
    if sentences == 0:
        return []
    if beams == 1:
        return greedy(
            state, sentences=sentences, max_lengths=max_lengths, length_penalty=length_penalty, min_length=min_length,
            prefixes=prefixes, forbidden=forbidden,
        )  # fmt: skip
    device = max_lengths.device
    steps = int(max_lengths.max())
    prefix = PrefixConstraint(prefixes, steps, device) if prefixes is not None else None
    banned = torch.tensor(forbidden, dtype=torch.long, device=device)
    trace = Trace(sentences, beams, device)
    rows = torch.arange(sentences, device=device)
    final_penalty = ((5.0 + max_lengths.float()) / 6.0) ** length_penalty
    # One beam at the start, or all of them would search the same.
    scores = torch.zeros((sentences, 1), device=device)
    tokens = torch.full((sentences, 1), BOS, dtype=torch.long, device=device)
    # The pool of finished hypotheses, best first: their scores, and where the trace holds their last token.
    pool_scores = torch.full((sentences, beams), _NEVER, device=device)
    pool_places = torch.zeros((sentences, beams), dtype=torch.long, device=device)
    best_candidates = torch.arange(2 * beams, device=device) < beams
    check_every = CHECK_EVERY.get(device.type, CHECK_EVERY_ELSEWHERE)

    for step in range(steps):
        logits = state.step(tokens)
        log_probabilities = constrained_log_softmax(
            logits, banned, end_allowed=step >= max(1, min_length), forced=prefix.at(step, rows) if prefix else None
        )
        candidates, parents, chosen, gains = top_candidates(scores, log_probabilities, 2 * beams)  # [S, 2B]
        last = max_lengths <= step + 1
        ended = (chosen == EOS) | last.unsqueeze(1)

        # Finished ones join the pool.
        penalty = length_penalty_factor(step + 1, length_penalty)
        joining = ended
        if early_stopping:
            # A full pool is closed for good: how soon its sentence leaves must not matter.
            joining = ended & best_candidates & (pool_scores[:, -1:] == _NEVER)
        ended_scores = (candidates / penalty).masked_fill(~joining, _NEVER)
        places = torch.arange(step * 2 * beams, (step + 1) * 2 * beams, device=device).expand_as(chosen)
        pool_scores, best = torch.cat([pool_scores, ended_scores], 1).sort(dim=1, descending=True, stable=True)
        pool_scores = pool_scores[:, :beams]
        pool_places = torch.cat([pool_places, places], 1).gather(1, best[:, :beams])

        # The B best of the others go on.
        ranks = ended.to(torch.uint8).sort(dim=1, stable=True).indices[:, :beams]
        scores = candidates.gather(1, ranks).masked_fill(last.unsqueeze(1), _NEVER)
        tokens = chosen.gather(1, ranks)
        trace.write(rows, parents, chosen, gains, candidates, ranks)

        if step + 1 == steps:
            break
        if (step + 1) % check_every == 0:
            done = pool_scores[:, n_best - 1] >= scores[:, 0] / final_penalty
            if early_stopping:
                done = done | (pool_scores[:, -1] > _NEVER)
            leaving = int(done.sum())
            if leaving == len(rows):
                break
            if leaving:
                # First shrink, then re-order: finished sentences need neither.
                trace.finish(rows, pool_scores, pool_places)
                kept = (~done).nonzero().squeeze(1)
                state.keep(kept)
                rows, max_lengths, final_penalty = rows[kept], max_lengths[kept], final_penalty[kept]
                scores, tokens, parents, ranks = scores[kept], tokens[kept], parents[kept], ranks[kept]
                pool_scores, pool_places = pool_scores[kept], pool_places[kept]
        state.reorder(parents.gather(1, ranks))
    trace.finish(rows, pool_scores, pool_places)
    return trace.hypotheses(n_best)


def greedy(
    state: SearchState,
    *,
    sentences: int,
    max_lengths: Tensor,
    length_penalty: float = 0.6,
    min_length: int = 0,
    prefixes: Sequence[Sequence[int]] | None = None,
    forbidden: Sequence[int] = FORBIDDEN,
) -> list[list[Hypothesis]]:
    """The sequence of the most probable token at every step, as a list of one for each sentence. Arguments as in
    ``beam_search``.
    """

    def most_probable(logits: Tensor, step: int, rows: Tensor) -> Tensor:
        return logits.argmax(dim=2)

    return follow(
        state, most_probable, sentences=sentences, chains=1, max_lengths=max_lengths, length_penalty=length_penalty,
        min_length=min_length, prefixes=prefixes, forbidden=forbidden,
    )  # fmt: skip


def follow(
    state: SearchState,
    choose: Callable[[Tensor, int, Tensor], Tensor],
    *,
    sentences: int,
    chains: int,
    max_lengths: Tensor,
    length_penalty: float,
    min_length: int,
    prefixes: Sequence[Sequence[int]] | None = None,
    forbidden: Sequence[int] = FORBIDDEN,
) -> list[list[Hypothesis]]:
    """Let ``chains`` independent sequences a sentence grow by what ``choose(logits [S, chains, V], step, rows [S]) →
    [S, chains]`` picks; what it must not pick has logit −inf. ``rows`` are the sentences' positions in the whole
    batch. Each chain ends at its first EOS.
    """
    if sentences == 0:
        return []
    device = max_lengths.device
    steps = int(max_lengths.max())
    prefix = PrefixConstraint(prefixes, steps, device) if prefixes is not None else None
    banned = torch.tensor(forbidden, dtype=torch.long, device=device)
    chosen = torch.full((sentences, chains, steps), PAD, dtype=torch.long, device=device)
    gains = torch.zeros((sentences, chains, steps), device=device)
    rows = torch.arange(sentences, device=device)
    tokens = torch.full((sentences, 1), BOS, dtype=torch.long, device=device)
    ended = torch.zeros((sentences, chains), dtype=torch.bool, device=device)
    check_every = CHECK_EVERY.get(device.type, CHECK_EVERY_ELSEWHERE)
    for step in range(steps):
        logits = state.step(tokens)
        normaliser = logits.logsumexp(dim=2)
        forced = prefix.at(step, rows) if prefix else None
        if forced is not None:  # before their tokens are forbidden
            is_forced, forced_tokens = (values.unsqueeze(1) for values in forced)
            forced_gain = logits.gather(2, forced_tokens.unsqueeze(2).expand(-1, logits.shape[1], 1)).squeeze(2)
            forced_gain = forced_gain - normaliser
        forbid(logits, banned, end_allowed=step >= max(1, min_length))
        if step == 0 and chains > 1:  # all of them start alike
            state.reorder(torch.zeros_like(ended, dtype=torch.long))
            logits = logits.expand(-1, chains, -1)
        tokens = choose(logits, step, rows)
        gain = logits.gather(2, tokens.unsqueeze(2)).squeeze(2) - normaliser
        if forced is not None:
            tokens = torch.where(is_forced, forced_tokens, tokens)
            gain = torch.where(is_forced, forced_gain, gain)
        tokens = tokens.masked_fill(ended, PAD)
        chosen[rows, :, step] = tokens
        gains[rows, :, step] = gain.masked_fill(ended, 0.0)
        ended = ended | (tokens == EOS) | (max_lengths <= step + 1).unsqueeze(1)
        if (step + 1) % check_every == 0 and step + 1 < steps:
            done = ended.all(dim=1)
            leaving = int(done.sum())
            if leaving == len(rows):
                break
            if leaving:
                kept = (~done).nonzero().squeeze(1)
                state.keep(kept)
                rows, max_lengths, tokens, ended = rows[kept], max_lengths[kept], tokens[kept], ended[kept]
    return [
        sorted(
            (_chain(ids, gain, length_penalty) for ids, gain in zip(sentence_ids, sentence_gains, strict=True)),
            key=lambda hypothesis: -hypothesis.score,
        )
        for sentence_ids, sentence_gains in zip(chosen.tolist(), gains.tolist(), strict=True)
    ]


def _chain(ids: list[int], gains: list[float], length_penalty: float) -> Hypothesis:
    length = ids.index(PAD) if PAD in ids else len(ids)
    total = sum(gains[:length])
    return Hypothesis(
        tokens=tuple(ids[:length]),
        score=total / length_penalty_factor(length, length_penalty),
        log_probability=total,
        token_log_probabilities=tuple(gains[:length]),
    )
