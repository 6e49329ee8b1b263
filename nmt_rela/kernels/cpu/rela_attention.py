"""Training ReLA attention on a CPU in fewer passes over the scores than the plain form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nmt_rela.kernels.cpu.dropout import dropout_mask


def rela_attention_cpu(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, dropout: float) -> Tensor:
    """dropout(max(0, q kᵀ / √head_dim + bias)) v: [batch, queries, heads, head_dim], in float32 or wider.

    ``query`` is [batch, heads, queries, head_dim], ``key`` and ``value`` [batch, heads, keys, head_dim]. ``bias``
    [batch or 1, 1, queries or 1, keys] is 0 where a key is visible and very negative elsewhere.
    Because max(0, c s) = c max(0, s), all scaling moves into the matrix multiplications that follow, where it is free.
    The norm that follows works in float32: concatenating half-precision heads and widening them is one pass.
    """
    z: Tensor = _ReluAttention.apply(query, key, value, bias, dropout)
    return z


class _ReluAttention(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        batch, heads, queries, head_dim = query.shape
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))  # [batch · heads, length, head_dim]
        weights = torch.bmm(query, key.transpose(1, 2))
        if bias is not None:
            weights.view(batch, heads, queries, -1).add_(bias.to(weights.dtype))
        weights.relu_()
        ctx.scale = head_dim**-0.5
        if dropout > 0.0:
            kept, kept_scale = dropout_mask(weights, dropout)
            weights.mul_(kept)
            ctx.scale *= kept_scale
        ctx.save_for_backward(query, key, value, weights)
        z = _scaled_bmm(weights, value, ctx.scale).view(batch, heads, queries, head_dim).transpose(1, 2)
        return z.new_empty(z.shape, dtype=torch.promote_types(z.dtype, torch.float32)).copy_(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        batch, _, heads, _ = gradient.shape
        gradient = gradient.transpose(1, 2)
        gradient = query.new_empty(gradient.shape).copy_(gradient).flatten(0, 1)
        # One comparison undoes ReLU and dropout: both have left 0 where no gradient passes.
        scores_gradient = torch.ops.aten.threshold_backward(torch.bmm(gradient, value.transpose(1, 2)), weights, 0)
        gradients = (
            _scaled_bmm(scores_gradient, key, ctx.scale),
            _scaled_bmm(scores_gradient.transpose(1, 2), query, ctx.scale),
            _scaled_bmm(weights.transpose(1, 2), gradient, ctx.scale),
        )
        return (*(x.view(batch, heads, *x.shape[1:]) for x in gradients), None, None)


def _scaled_bmm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale · left @ right, matrix by matrix."""
    return torch.baddbmm(right.new_empty(()), left, right, beta=0.0, alpha=scale)
