"""The tokens a beam may go on with: the best, without the forbidden, or those of a forced prefix.

Shape legend: S sentences, B beams, V vocabulary, K candidates of one beam.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from nmt_rela.data.vocabulary import BOS, EOS, PAD, UNK

#: Tokens that a translation never holds.
FORBIDDEN = (PAD, UNK, BOS)
#: Tokens a block, in the two-stage choice of the best.
_BLOCK = 64


def forbid(logits: Tensor, banned: Tensor, *, end_allowed: bool) -> None:
    logits.index_fill_(2, banned, -torch.inf)
    if not end_allowed:
        logits[:, :, EOS] = -torch.inf


def best_tokens(logits: Tensor, count: int, banned: Tensor, *, end_allowed: bool) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids [S, B, count] of each beam's best tokens, best first, smaller ids first among equals.
    The logits are overwritten.

    Where equals lie at the edge of the best, which of them are in is up to ``torch.topk``: the same for the same row.
    """
    # In place where it is known to work: a new tensor of this size costs the CPU half as much again.
    log_probabilities = torch.log_softmax(logits, 2, out=logits if logits.device.type == "cpu" else None)
    forbid(log_probabilities, banned, end_allowed=end_allowed)
    values, ids = _top(log_probabilities, min(count, logits.shape[2]))
    if count > logits.shape[2]:  # a vocabulary smaller than that
        missing = (0, count - logits.shape[2])
        values, ids = pad(values, missing, value=-torch.inf), pad(ids, missing, value=PAD)
    if logits.device.type != "cpu" or bool((values[:, :, 1:] == values[:, :, :-1]).any()):
        ids, by_id = ids.sort(dim=2)
        values, by_value = values.gather(2, by_id).sort(dim=2, descending=True, stable=True)
        ids = ids.gather(2, by_value)
    return values, ids


def _top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``values.topk(count)`` over the last dimension. On the CPU, first over the maxima of blocks: thrice as fast,
    and exact, as the best of all lie in the blocks of the best maxima.
    """
    blocks = values.shape[2] // _BLOCK
    if values.device.type != "cpu" or blocks < 2 * count:
        return values.topk(count, dim=2)
    edge = blocks * _BLOCK
    blocked = values[:, :, :edge].unflatten(2, (blocks, _BLOCK))  # [S, B, blocks, _BLOCK]
    best = blocked.amax(dim=3).topk(count, dim=2, sorted=False).indices
    inside = blocked.gather(2, best.unsqueeze(3).expand(-1, -1, -1, _BLOCK)).flatten(2)
    ids = (best * _BLOCK).unsqueeze(3).add(torch.arange(_BLOCK)).flatten(2)
    if edge < values.shape[2]:
        inside = torch.cat([inside, values[:, :, edge:]], dim=2)
        ids = torch.cat([ids, torch.arange(edge, values.shape[2]).expand(*ids.shape[:2], -1)], dim=2)
    found = inside.topk(count, dim=2)
    return found.values, ids.gather(2, found.indices)


def force(values: Tensor, ids: Tensor, is_forced: Tensor, tokens: Tensor, log_probabilities: Tensor) -> None:
    """Leave forced sentences (in place) one candidate a beam: the next token of their prefix. Only their first beam
    is alive.
    """
    values.masked_fill_(is_forced.view(-1, 1, 1), -torch.inf)
    values[:, :, 0] = torch.where(is_forced.unsqueeze(1), log_probabilities, values[:, :, 0])
    ids[:, :, 0] = torch.where(is_forced.unsqueeze(1), tokens.unsqueeze(1), ids[:, :, 0])


class PrefixTable:
    """The forced prefixes as one tensor; rows without a token at a step are free."""

    def __init__(self, prefixes: Sequence[Sequence[int]], steps: int, device: torch.device) -> None:
        assert all(EOS not in prefix and len(prefix) < steps for prefix in prefixes)
        self._longest = max(map(len, prefixes), default=0)
        table = torch.full((len(prefixes), self._longest), -1, dtype=torch.long)
        for row, prefix in enumerate(prefixes):
            table[row, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
        self._table = table.to(device)

    def at(self, step: int, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Which rows are forced [S], to which token [S], and its log-probability in every beam [S, B]; None when none
        is.
        """
        if step >= self._longest:
            return None
        tokens = self._table[rows, step]
        is_forced, tokens = tokens >= 0, tokens.clamp(min=0)
        index = tokens.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
        return is_forced, tokens, logits.gather(2, index).squeeze(2) - logits.logsumexp(dim=2)
