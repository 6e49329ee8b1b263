"""ReLA's heads on a CPU, in fewer passes over the scores than the reference path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nmt_rela.attention.dropout import draw_kept
from nmt_rela.attention.mask import Mask


def rectified_heads(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, *, dropout: float) -> Tensor:
    """dropout(max(0, q kᵀ / √width + mask)) v: [batch, queries, heads, width], contiguous, float32 at least.

    ``query`` is [batch, heads, queries, width], ``key`` and ``value`` [batch, heads, keys, width].
    As max(0, c s) = c max(0, s), all scaling is left to the products that follow, which do it for nothing. The
    norm that follows works in float32: to put the heads side by side and to widen them is one pass.
    """
    heads: Tensor = _RectifiedHeads.apply(query, key, value, mask, dropout)
    return heads


class _RectifiedHeads(Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, dropout: float) -> Tensor:
        shape = (*query.shape[:3], key.shape[2])  # [batch, heads, queries, keys]
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))  # [batch · heads, length, width]
        weights = torch.bmm(query, key.transpose(1, 2)).view(shape)
        # The rectifier and the mask in one pass.
        torch.clamp(weights, weights.new_zeros(()), None if mask is None else mask.ceiling_for(weights), out=weights)
        scale = query.shape[2] ** -0.5
        if dropout > 0.0:
            kept, scale_of_kept = draw_kept(weights, dropout)
            weights.mul_(kept)
            scale *= scale_of_kept
        weights = weights.flatten(0, 1)
        context.save_for_backward(query, key, value, weights)
        context.scale = scale
        heads = _product(weights, value, scale).view(*shape[:3], value.shape[2]).transpose(1, 2)
        return heads.new_empty(heads.shape, dtype=torch.promote_types(heads.dtype, torch.float32)).copy_(heads)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = context.saved_tensors
        batch, _, heads, _ = gradient.shape
        gradient = gradient.transpose(1, 2)
        gradient = query.new_empty(gradient.shape).copy_(gradient).flatten(0, 1)
        # One comparison undoes rectifier and dropout: both have left 0 where no gradient passes.
        inner = torch.ops.aten.threshold_backward(torch.bmm(gradient, value.transpose(1, 2)), weights, 0)
        gradients = (
            _product(inner, key, context.scale),
            _product(inner.transpose(1, 2), query, context.scale),
            _product(weights.transpose(1, 2), gradient, context.scale),
        )
        return (*(x.view(batch, heads, *x.shape[1:]) for x in gradients), None, None)


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale · left @ right, matrix by matrix."""
    return torch.baddbmm(right.new_empty(()), left, right, beta=0.0, alpha=scale)
