"""Guided alignment: the loss by which heads of cross-attention learn given word links.

Garg et al. 2019 (arXiv:1909.02074) take the cross-entropy between the links and the weights of a softmax head. A sparse
weight function has no gradient where a linked key has weight 0, which is the usual case early in training and always
the case in a null row. The loss of a row of scores s with the link distribution q is therefore the Fenchel-Young loss
of the head's own weight function w (Blondel, Martins and Niculae 2020, arXiv:1901.02324):

    L(s, q) = Ω(q) − Ω(w(s)) + (w(s) − q) · s          with gradient w(s) − q

It is 0 exactly where the weights are the links, with ReLA a multiple c ≥ 1 of them (below). For softmax it is the
cross-entropy minus the entropy of q. A null row has the loss Ω(q) − q · s > 0 and the gradient −q, which raises the
scores of the linked keys until they are positive.

Rows of ReLA have no fixed sum, and the norm that follows takes out the scale of all heads together. Their loss is
therefore the smallest for links of any scale c ≥ 1, L(s, c q) / c. The best c is max(1, ‖w‖ / ‖q‖). For c > 1 the loss
is ‖q‖ ‖w‖ − q · s, with the gradient w / c − q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmt_rela.attention import functional
from nmt_rela.attention.backends import attention_scores
from nmt_rela.attention.multi_head_attention import MultiHeadAttention


@dataclass(frozen=True, slots=True)
class GuidedHeads:
    """The first heads of the cross-attention of a decoder layer, which is counted from 0."""

    layer: int
    heads: int


def guided_scores(module: MultiHeadAttention, heads: int, seen: list[Tensor]) -> Any:
    """A handle, and context manager, that appends the masked scores of the first heads at every call of ``module``.

    They are [batch, heads, target length, source length], in float32 or wider. They are computed once more, so that
    the module itself stays with its fused kernels.
    """

    def observe(module: Any, inputs: tuple[Any, ...], options: dict[str, Any], _output: Any) -> None:
        hidden_states, mask = inputs
        key, _ = options["key_value"]
        scores = attention_scores(module.project_q(hidden_states)[:, :heads], key[:, :heads], mask)
        seen.append(scores if scores.dtype == torch.float64 else scores.float())

    return module.register_forward_hook(observe, with_kwargs=True)


def alignment_loss(
    weight_fn: Callable[[Tensor], Tensor], scores: Tensor, links: Tensor, *, sentence_weights: Tensor | None = None
) -> Tensor:
    """The summed loss of the target sub-words that have a link, each the mean over the heads; in nats for softmax.

    Args:
        weight_fn: the weight function of the heads.
        scores: masked scores, [batch, heads, target length, source length], in float32 or wider.
        links: indices of linked sub-words into the flattened [batch, target length, source length].
        sentence_weights: weights of the sentences in the sum, [batch]; default: all 1.
    """
    batch, _, target_length, source_length = scores.shape
    linked = scores.new_zeros(batch * target_length * source_length).index_fill_(0, links, 1.0)
    linked = linked.view(batch, 1, target_length, source_length)
    count = linked.sum(dim=-1)  # [batch, 1, target length]
    distribution = linked / count.clamp(min=1.0)[..., None]
    weights_of, negentropy = _WEIGHT_FUNCTIONS[weight_fn]
    with torch.no_grad():  # by the envelope theorem the gradient passes neither through the weights nor the scale
        weights = weights_of(scores)
        scale = _link_scale(weights, distribution) if weight_fn is functional.relu else weights.new_ones(())
    scaled = scale[..., None] * distribution
    losses = (negentropy(scaled) - negentropy(weights) + ((weights - scaled) * scores).sum(dim=-1)) / scale
    losses = torch.where(count > 0, losses, 0.0).mean(dim=1)  # [batch, target length]
    if sentence_weights is not None:
        losses = losses * sentence_weights[:, None]
    return losses.sum()


def _link_scale(weights: Tensor, distribution: Tensor) -> Tensor:
    """max(1, ‖w‖ / ‖q‖), row by row; 1 where there is no link."""
    norms = distribution.norm(dim=-1)
    return torch.where(norms > 0, weights.norm(dim=-1) / norms, 1.0).clamp(min=1.0)


# The weight functions again, without the checks for convergence that would wait for a GPU: by sorting.


def _sparsemax(scores: Tensor) -> Tensor:
    scores = _below_max(scores)
    ranked = scores.sort(dim=-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    excess = ranked.cumsum(dim=-1) - 1.0
    support = (rank * ranked > excess).sum(dim=-1, keepdim=True)
    return (scores - excess.gather(-1, support - 1) / support).relu()


def _entmax15(scores: Tensor) -> Tensor:
    scores = _below_max(scores / 2)
    ranked = scores.sort(dim=-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    mean = ranked.cumsum(dim=-1) / rank
    variance = ranked.square().cumsum(dim=-1) / rank - mean.square()
    thresholds = mean - (1.0 / rank - variance).relu().sqrt()
    support = (thresholds <= ranked).sum(dim=-1, keepdim=True)
    return (scores - thresholds.gather(-1, support - 1)).relu().square()


def _below_max(scores: Tensor) -> Tensor:
    """Scores minus the largest of their row. Those more than 1 below it have weight 0, so that they may be clamped."""
    return (scores - scores.amax(dim=-1, keepdim=True)).clamp(min=-2.0)


def _shannon(weights: Tensor) -> Tensor:
    return torch.special.xlogy(weights, weights).sum(dim=-1)


def _half_square(weights: Tensor) -> Tensor:
    return weights.square().sum(dim=-1) / 2


def _tsallis15(weights: Tensor) -> Tensor:
    return weights.pow(1.5).sum(dim=-1) / 0.75


#: By weight function: the same function, and Ω, whose maximizer of w · s − Ω(w) it is.
_WEIGHT_FUNCTIONS: dict[Callable[[Tensor], Tensor], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    functional.softmax: (functional.softmax, _shannon),
    functional.sparsemax: (_sparsemax, _half_square),
    functional.entmax15: (_entmax15, _tsallis15),
    functional.relu: (functional.relu, _half_square),
}
