"""Beam search on logits: it knows neither text nor vocabularies nor networks.

Shapes: S active sentences, B beams, V vocabulary, C candidates per sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.generation.decoding_step import (
    Hypothesis,
    NextTokenLogProbs,
    SearchConstraints,
    StepDecoder,
    length_penalty_factor,
)
from nmt_rela.generation.sampling import greedy_search
from nmt_rela.kernels.availability import triton_is_available_for
from nmt_rela.kernels.cpu.beam_step import native_beam_step, supports_native_beam_step
from nmt_rela.kernels.cpu.topk import blockwise_shortlist, supports_blockwise_shortlist

_NEVER = float("-inf")


def beam_search(
    decoder: StepDecoder,
    constraints: SearchConstraints,
    *,
    beam_size: int,
    n_best: int = 1,
    early_stopping: bool = False,
) -> list[list[Hypothesis]]:
    """The ``n_best`` sequences of highest score that the beam finds, best first, for each sentence.

    The rules are the paper's. Each step has 2·B candidates. Candidates that end join the pool of finished hypotheses;
    a hypothesis of maximum length counts as finished. A sentence ends when its n_best-th finished score is at least
    the best unfinished log-probability over the penalty at maximum length: log-probabilities only sink and penalties
    only grow, so nothing found later could enter the n_best. (The paper ends a sentence when
    all of its pool is final; the n_best are the same.) A beam of one is greedy search and ends with its first EOS.

    With ``early_stopping``, a sentence ends at the latest when its pool holds B hypotheses, and only the best B
    candidates of a step may join the pool: the rule of fairseq and CTranslate2. It is faster. Under penalties that
    favour length more than the model does, it keeps the search from running to the maximum length.

    Results do not depend on the other sentences of the batch. Ties go to the better beam, then to the smaller token.
    """
    assert 1 <= n_best <= beam_size
    max_lengths, length_penalty, steps = constraints.max_lengths, constraints.length_penalty, constraints.max_steps
    sentences, device = len(max_lengths), max_lengths.device
    if sentences == 0:
        return []
    if beam_size == 1:
        return greedy_search(decoder, constraints)
    next_log_probs = NextTokenLogProbs(constraints)
    history = BeamHistory(sentences, beam_size, device)
    # One beam at the first step: several would all search the same.
    beam = Beam(
        rows=torch.arange(sentences, device=device),
        max_lengths=max_lengths,
        final_penalty=((5.0 + max_lengths.float()) / 6.0) ** length_penalty,
        scores=torch.zeros((sentences, 1), dtype=torch.float32, device=device),
        tokens=torch.full((sentences, 1), BOS, dtype=torch.long, device=device),
        finished_scores=torch.full((sentences, beam_size), _NEVER, dtype=torch.float32, device=device),
        finished_indices=torch.zeros((sentences, beam_size), dtype=torch.long, device=device),
    )
    for step in range(steps):
        logits = decoder.step(beam.tokens)
        take_step = _native_step if supports_native_beam_step(logits) else _plain_step
        candidates, beam, parents, done = take_step(
            beam, logits, next_log_probs, step, beam_size=beam_size, n_best=n_best, early_stopping=early_stopping,
            penalty=length_penalty_factor(step + 1, length_penalty),
        )  # fmt: skip
        history.append(beam.rows, candidates)
        if step + 1 == steps:
            break
        if constraints.is_check_due(step):
            num_done = int(done().sum())
            if num_done == len(beam.rows):
                break
            if num_done:
                # Select before reordering: finished sentences need no reordering.
                history.set_finished(beam)
                kept = (~done()).nonzero().squeeze(1)
                decoder.select_sentences(kept)
                beam, parents = Beam(*(x[kept] for x in beam)), parents[kept]
        decoder.reorder(parents)
    history.set_finished(beam)
    return history.best_hypotheses(n_best)


class Beam(NamedTuple):
    """The active sentences: their positions in the whole batch, limits, beams and pools of finished hypotheses."""

    rows: Tensor  # [S]
    max_lengths: Tensor  # [S]
    final_penalty: Tensor  # [S]: the penalty at maximum length
    scores: Tensor  # [S, B]: log-probabilities so far
    tokens: Tensor  # [S, B]: the last ones
    finished_scores: Tensor  # [S, B], best first
    finished_indices: Tensor  # [S, B]: where the history holds their last token


class Candidates(NamedTuple):
    """The candidates of a step, best first, each [S, 2B], and the positions of those that continue, [S, B]."""

    totals: Tensor
    beam_indices: Tensor
    tokens: Tensor
    token_log_probs: Tensor
    continuing: Tensor


def _plain_step(
    beam: Beam,
    logits: Tensor,
    next_log_probs: NextTokenLogProbs,
    step: int,
    *,
    beam_size: int,
    n_best: int,
    early_stopping: bool,
    penalty: float,
) -> tuple[Candidates, Beam, Tensor, Callable[[], Tensor]]:
    """The candidates, the beams after the step, the beams that they continue [S, B], and which sentences are done."""
    totals, beam_indices, next_tokens, token_log_probs = next_candidates(  # [S, 2B]
        beam.scores, logits, next_log_probs, step, beam.rows, 2 * beam_size
    )
    at_max_length = beam.max_lengths <= step + 1
    ended = (next_tokens == EOS) | at_max_length.unsqueeze(1)

    # Candidates that ended join the pool.
    joins_pool = ended
    if early_stopping:
        # A full pool takes no more, so that results do not depend on when its sentence leaves the batch.
        within_beam = torch.arange(2 * beam_size, device=logits.device) < beam_size
        joins_pool = ended & within_beam & (beam.finished_scores[:, -1:] == _NEVER)
    ended_scores = (totals / penalty).masked_fill(~joins_pool, _NEVER)
    indices = torch.arange(step * 2 * beam_size, (step + 1) * 2 * beam_size, device=logits.device)
    pool_scores, best = torch.cat([beam.finished_scores, ended_scores], 1).sort(dim=1, descending=True, stable=True)
    pool_indices = torch.cat([beam.finished_indices, indices.expand_as(next_tokens)], 1)
    finished_scores = pool_scores[:, :beam_size]

    # The best B of the others continue.
    continuing = ended.to(torch.uint8).sort(dim=1, stable=True).indices[:, :beam_size]  # [S, B] of 2B
    scores = totals.gather(1, continuing).masked_fill(at_max_length.unsqueeze(1), _NEVER)

    def done() -> Tensor:
        done = finished_scores[:, n_best - 1] >= scores[:, 0] / beam.final_penalty
        return done | (finished_scores[:, -1] > _NEVER) if early_stopping else done

    after = beam._replace(
        scores=scores, tokens=next_tokens.gather(1, continuing), finished_scores=finished_scores,
        finished_indices=pool_indices.gather(1, best[:, :beam_size]),
    )  # fmt: skip
    candidates = Candidates(totals, beam_indices, next_tokens, token_log_probs, continuing)
    return candidates, after, beam_indices.gather(1, continuing), done


def _native_step(
    beam: Beam, logits: Tensor, next_log_probs: NextTokenLogProbs, step: int, **rules: Any
) -> tuple[Candidates, Beam, Tensor, Callable[[], Tensor]]:
    """`_plain_step` in one call of compiled code. It updates the pools in place."""
    found = native_beam_step(
        logits, next_log_probs.suppressed(step), next_log_probs.forced(step, beam.rows), beam.max_lengths,
        beam.final_penalty, beam.scores, beam.finished_scores, beam.finished_indices, step=step, eos=EOS, pad=PAD,
        **rules,
    )  # fmt: skip
    scores, tokens, parents, done = found[5:]
    return Candidates(*found[:5]), beam._replace(scores=scores, tokens=tokens), parents, lambda: done


def next_candidates(
    scores: Tensor, logits: Tensor, next_log_probs: NextTokenLogProbs, step: int, rows: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`top_candidates` of the log-probabilities that the constraints leave of ``logits`` [S, B, V].

    On a GPU, kernels find them without computing these log-probabilities, unless a prefix determines a token.
    """
    if triton_is_available_for(logits) and not next_log_probs.is_forced(step):
        from nmt_rela.kernels.triton.topk import fused_candidates, supports_fused_candidates

        if supports_fused_candidates(logits, count):
            return fused_candidates(scores, logits, next_log_probs.suppressed(step), count)
    return top_candidates(scores, next_log_probs(logits, step, rows), count)


def top_candidates(scores: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``count`` best continuations, by one token, of a sentence's hypotheses with log-probabilities ``scores``.

    ``scores`` is [S, B], ``log_probs`` [S, B, V]. Returns, best first, each [S, count]: total log-probabilities, beam
    indices, tokens, and the tokens' log-probabilities. Among equals the better beam comes first, then the smaller
    token. Which of several equals at the edge of the shortlist are in it is up to ``torch.topk``: the same ones for
    the same sentence.
    """
    vocabulary = log_probs.shape[2]
    if supports_blockwise_shortlist(log_probs, count):
        totals, flat_indices = blockwise_shortlist(scores, log_probs, count)  # [S, C]
    else:
        totals, flat_indices = shortlist(scores, log_probs, count)
    if totals.shape[1] < count:  # the vocabulary is smaller than that
        missing = (0, count - totals.shape[1])
        totals, flat_indices = pad(totals, missing, value=-torch.inf), pad(flat_indices, missing, value=PAD)
    best = _stable_topk(totals, flat_indices, count)
    totals, flat_indices = totals.gather(1, best), flat_indices.gather(1, best)
    beam_indices = flat_indices.div(vocabulary, rounding_mode="floor")
    return totals, beam_indices, flat_indices - beam_indices * vocabulary, log_probs.flatten(1).gather(1, flat_indices)


def shortlist(scores: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best candidates of every beam: totals [S, C] and flat indices, beam · V + token, [S, C]."""
    _, beams, vocabulary = log_probs.shape
    values, tokens = log_probs.topk(min(count, vocabulary), dim=2)
    first = torch.arange(
        0, beams * vocabulary, vocabulary, device=log_probs.device
    )  # flat index of each beam's token 0
    return (values + scores.unsqueeze(2)).flatten(1), (tokens + first.unsqueeze(1)).flatten(1)


def _stable_topk(totals: Tensor, flat_indices: Tensor, count: int) -> Tensor:
    """Positions [S, count] of the largest totals [S, C], best first; among equals the smaller flat index first."""
    if totals.device.type == "cpu":  # looking for equals needs no synchronization here
        values, best = totals.topk(min(count + 1, totals.shape[1]), dim=1)
        if not bool(((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any()):
            return best[:, :count]
    by_index = flat_indices.argsort(dim=1)
    return by_index.gather(1, totals.gather(1, by_index).argsort(dim=1, descending=True, stable=True)[:, :count])


class BeamHistory:
    """The candidates of every step. Hypotheses are read backwards from it at the end, with one transfer to the CPU."""

    def __init__(self, sentences: int, beam_size: int, device: torch.device) -> None:
        self._beam_size = beam_size
        self._steps: list[tuple[Tensor, ...]] = []
        self._finished_scores = torch.full((sentences, beam_size), _NEVER, dtype=torch.float32, device=device)
        self._finished_indices = torch.zeros((sentences, beam_size), dtype=torch.long, device=device)

    def append(self, rows: Tensor, candidates: Candidates) -> None:
        """Record one step's candidates of the sentences ``rows`` [S]."""
        self._steps.append((rows, *candidates))

    def set_finished(self, beam: Beam) -> None:
        """Set the finished hypotheses of the active sentences; a later call replaces them."""
        self._finished_scores[beam.rows] = beam.finished_scores
        self._finished_indices[beam.rows] = beam.finished_indices

    def best_hypotheses(self, n_best: int) -> list[list[Hypothesis]]:
        """The best finished hypotheses of every sentence, traced back to their first token."""
        # line_of[step, sentence]: where the concatenated records hold that sentence's candidates of that step
        rows, totals, beam_indices, tokens, token_log_probs, continuing = (
            torch.cat(part).cpu().numpy() for part in zip(*self._steps, strict=True)
        )
        steps = np.repeat(np.arange(len(self._steps)), [len(step[0]) for step in self._steps])
        line_of = np.zeros((len(self._steps), len(self._finished_scores)), dtype=np.int64)
        line_of[steps, rows] = np.arange(len(rows))

        def trace(sentence: int, index: int, score: float) -> Hypothesis:
            last_step, candidate = divmod(index, 2 * self._beam_size)
            log_probability = float(totals[line_of[last_step, sentence], candidate])
            reversed_tokens: list[int] = []
            reversed_log_probs: list[float] = []
            for step in range(last_step, -1, -1):
                line = line_of[step, sentence]
                reversed_tokens.append(int(tokens[line, candidate]))
                reversed_log_probs.append(float(token_log_probs[line, candidate]))
                if step:
                    candidate = continuing[line_of[step - 1, sentence], beam_indices[line, candidate]]
            return Hypothesis(
                tokens=tuple(reversed(reversed_tokens)),
                score=score,
                log_probability=log_probability,
                token_log_probabilities=tuple(reversed(reversed_log_probs)),
            )

        pools = zip(self._finished_scores.tolist(), self._finished_indices.tolist(), strict=True)
        return [
            [
                trace(sentence, index, score)
                for score, index in zip(scores[:n_best], indices, strict=False)
                if score > _NEVER
            ]
            for sentence, (scores, indices) in enumerate(pools)
        ]
