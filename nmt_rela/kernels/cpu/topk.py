"""The best candidates of a beam-search step by blocks of tokens, several times as fast as ``torch.topk`` on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

#: Tokens per block.
_BLOCK = 64


def supports_blockwise_shortlist(log_probs: Tensor, count: int) -> bool:
    """Whether ``blockwise_shortlist`` applies: on the CPU, with enough blocks that most of them can be skipped."""
    return log_probs.device.type == "cpu" and log_probs.shape[2] // _BLOCK >= 2 * count


def blockwise_shortlist(scores: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Candidates that contain the ``count`` largest of ``scores`` [S, B] + ``log_probs`` [S, B, V] per sentence.

    Returns their sums [S, C] and flat indices, beam · V + token, [S, C]. The ``count`` blocks with the largest maxima
    contain the ``count`` largest sums, so the result is exact.
    """
    _, beams, vocabulary = log_probs.shape
    blocks = vocabulary // _BLOCK
    edge = blocks * _BLOCK
    blocked = log_probs[:, :, :edge].unflatten(2, (blocks, _BLOCK))  # [S, B, blocks, _BLOCK]
    maxima = blocked.amax(dim=3).add_(scores.unsqueeze(2))  # [S, B, blocks]
    chosen = maxima.flatten(1).topk(count, dim=1, sorted=False).indices  # [S, count]
    beam = chosen.div(blocks, rounding_mode="floor")
    begin = chosen * _BLOCK + beam * (vocabulary - edge)
    flat_indices = begin.unsqueeze(2) + torch.arange(_BLOCK)  # [S, count, _BLOCK]
    totals = log_probs.flatten(1).gather(1, flat_indices.flatten(1)).view_as(flat_indices)
    totals += scores.gather(1, beam).unsqueeze(2)
    if edge == vocabulary:
        return totals.flatten(1), flat_indices.flatten(1)
    # Tokens beyond the last whole block are always candidates.
    rest = log_probs[:, :, edge:] + scores.unsqueeze(2)
    first = torch.arange(0, beams * vocabulary, vocabulary)
    rest_indices = (torch.arange(edge, vocabulary) + first.unsqueeze(1)).expand_as(rest)
    return (
        torch.cat([totals.flatten(1), rest.flatten(1)], dim=1),
        torch.cat([flat_indices.flatten(1), rest_indices.flatten(1)], dim=1),
    )
