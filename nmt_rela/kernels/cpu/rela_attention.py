"""ReLA's heads in training on a CPU, in fewer passes over the scores than the reference path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nmt_rela.attention.mask import Mask
from nmt_rela.kernels.cpu.dropout import dropout_mask


def relu_attention_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, *, dropout: float) -> Tensor:
    """dropout(max(0, q kᵀ / √width + mask)) v: [batch, queries, heads, width], float32 at least.

    ``query`` is [batch, heads, queries, width], ``key`` and ``value`` [batch, heads, keys, width].
    As max(0, c s) = c max(0, s), all scaling is left to the products that follow, which do it for nothing. The
    norm that follows works in float32: to put the heads of half precision side by side and to widen them is one pass.
    """
    heads: Tensor = _ReluAttention.apply(query, key, value, mask, dropout)
    return heads


class _ReluAttention(Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, dropout: float) -> Tensor:
        batch, heads, queries, width = query.shape
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))
        weights = torch.bmm(query, key.transpose(1, 2))
        if mask is not None:
            scores = weights.view(batch, heads, queries, -1)
            scores.add_(mask.bias_for(scores))
        weights.relu_()
        context.scale = width**-0.5
        if dropout > 0.0:
            kept, scale_of_kept = dropout_mask(weights, dropout)
            weights.mul_(kept)
            context.scale *= scale_of_kept
        context.save_for_backward(query, key, value, weights)
        result = _product(weights, value, context.scale).view(batch, heads, queries, width).transpose(1, 2)
        wide = torch.promote_types(result.dtype, torch.float32)
        return result.new_empty(result.shape, dtype=wide).copy_(result)

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
