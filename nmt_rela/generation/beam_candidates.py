"""How hypotheses may go on: with the best tokens, without the forbidden, or with those of a forced prefix.

Shape legend: S sentences, B beams, V vocabulary, C candidates of a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK

#: Tokens that a translation never holds.
FORBIDDEN = (PAD, UNK, BOS)
#: Tokens a block, in the two-stage choice of the best.
_BLOCK = 64
_IN_BLOCK = torch.arange(_BLOCK)


def constrained_log_softmax(
    logits: Tensor, banned: Tensor, *, end_allowed: bool, forced: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Log-probabilities [S, B, V] of what may come next, −∞ for what may not. The logits are overwritten.

    ``forced``, as a ``PrefixConstraint`` gives it, leaves a sentence its next token alone, be it banned or not.
    """
    # In place where it is known to work: a new tensor of this size costs the CPU half as much again.
    log_probabilities = torch.log_softmax(logits, 2, out=logits if logits.device.type == "cpu" else None)
    if forced is None:
        forbid(log_probabilities, banned, end_allowed=end_allowed)
        return log_probabilities
    is_forced, tokens = forced
    is_forced, tokens = is_forced.view(-1, 1, 1), tokens.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    theirs = log_probabilities.gather(2, tokens)
    forbid(log_probabilities, banned, end_allowed=end_allowed)
    log_probabilities.masked_fill_(is_forced, -torch.inf)
    others = log_probabilities.gather(2, tokens)
    return log_probabilities.scatter_(2, tokens, torch.where(is_forced, theirs, others))


def forbid(logits: Tensor, banned: Tensor, *, end_allowed: bool) -> None:
    logits.index_fill_(2, banned, -torch.inf)
    if not end_allowed:
        logits[:, :, EOS] = -torch.inf


def top_candidates(scores: Tensor, log_probabilities: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``count`` best ways for a sentence's hypotheses, with ``scores`` [S, B] so far, to go on by one token.

    Returns, [S, count] each and best first: the new scores, the beams they come from, the tokens, and their
    log-probabilities. Among equals the better beam comes first, then the smaller token; where equals lie at the edge of
    the shortlist, which of them are in it is up to ``torch.topk``: the same for the same sentence.
    """
    vocabulary = log_probabilities.shape[2]
    totals, places = _shortlist(scores, log_probabilities, count)  # [S, C]
    if totals.shape[1] < count:  # a vocabulary smaller than that
        missing = (0, count - totals.shape[1])
        totals, places = pad(totals, missing, value=-torch.inf), pad(places, missing, value=PAD)
    best = _best(totals, places, count)
    totals, places = totals.gather(1, best), places.gather(1, best)
    parents = places.div(vocabulary, rounding_mode="floor")
    return totals, parents, places - parents * vocabulary, log_probabilities.flatten(1).gather(1, places)


def _best(totals: Tensor, places: Tensor, count: int) -> Tensor:
    """Indices [S, count] of the largest totals [S, C], best first, those of smaller places first among equals."""
    if totals.device.type == "cpu":  # where it costs nothing to look for equals
        values, best = totals.topk(min(count + 1, totals.shape[1]), dim=1)
        if not bool(((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any()):
            return best[:, :count]
    by_place = places.argsort(dim=1)
    return by_place.gather(1, totals.gather(1, by_place).argsort(dim=1, descending=True, stable=True)[:, :count])


def _shortlist(scores: Tensor, log_probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Candidates that the ``count`` best of each sentence are among: their scores [S, C], and where they stand,
    beam · V + token.

    On the CPU these are the blocks of tokens with the best maxima, which is exact, as the best of all lie in them, and
    several times as fast as ``torch.topk`` over all.
    """
    _, beams, vocabulary = log_probabilities.shape
    device = log_probabilities.device
    blocks = vocabulary // _BLOCK
    if device.type != "cpu" or blocks < 2 * count:
        values, ids = log_probabilities.topk(min(count, vocabulary), dim=2)
        first = torch.arange(0, beams * vocabulary, vocabulary, device=device)  # where each beam begins
        return (values + scores.unsqueeze(2)).flatten(1), (ids + first.unsqueeze(1)).flatten(1)
    edge = blocks * _BLOCK
    blocked = log_probabilities[:, :, :edge].unflatten(2, (blocks, _BLOCK))  # [S, B, blocks, _BLOCK]
    maxima = blocked.amax(dim=3).add_(scores.unsqueeze(2))
    chosen = maxima.flatten(1).topk(count, dim=1, sorted=False).indices  # [S, count]
    beam = chosen.div(blocks, rounding_mode="floor")
    begin = chosen * _BLOCK + beam * (vocabulary - edge)
    places = begin.unsqueeze(2) + _IN_BLOCK  # [S, count, _BLOCK]
    totals = log_probabilities.flatten(1).gather(1, places.flatten(1)).view_as(places)
    totals += scores.gather(1, beam).unsqueeze(2)
    if edge == vocabulary:
        return totals.flatten(1), places.flatten(1)
    rest = log_probabilities[:, :, edge:] + scores.unsqueeze(2)
    first = torch.arange(0, beams * vocabulary, vocabulary)
    rest_places = (torch.arange(edge, vocabulary) + first.unsqueeze(1)).expand_as(rest)
    return (
        torch.cat([totals.flatten(1), rest.flatten(1)], dim=1),
        torch.cat([places.flatten(1), rest_places.flatten(1)], dim=1),
    )


class PrefixConstraint:
    """The forced prefixes as one tensor; rows without a token at a step are free."""

    def __init__(self, prefixes: Sequence[Sequence[int]], steps: int, device: torch.device) -> None:
        assert all(EOS not in prefix and len(prefix) < steps for prefix in prefixes)
        self._longest = max(map(len, prefixes), default=0)
        table = torch.full((len(prefixes), self._longest), -1, dtype=torch.long)
        for row, prefix in enumerate(prefixes):
            table[row, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
        self._table = table.to(device)

    def at(self, step: int, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Which rows are forced [S], and to which token [S]; None when none is."""
        if step >= self._longest:
            return None
        tokens = self._table[rows, step]
        return tokens >= 0, tokens.clamp(min=0)
