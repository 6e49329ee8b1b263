"""Multi-head attention for all three sites and all five variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from nmt_rela.attention.backends import attend, attention_scores, attention_weights, weighted_values
from nmt_rela.attention.hook_point import HookPoint
from nmt_rela.attention.mask import AttentionMask
from nmt_rela.attention.rela_norm import ReLANorm
from nmt_rela.attention.variants import ATTENTION_VARIANTS

#: Keys and values of one call, 2 × [batch, heads, keys, head_dim].
KeyValue = tuple[Tensor, Tensor]


class MultiHeadAttention(nn.Module):
    """W_o · norm(concat_heads(z)) with z = dropout(w) v and w = weight_fn(q kᵀ / √head_dim + mask).

    Three hook points let other tools observe or replace what is computed:

    * ``hook_scores``: scores after scaling and masking, [batch, heads, queries, keys];
    * ``hook_pattern``: weights before dropout, [batch, heads, queries, keys];
    * ``hook_z``: outputs of the heads before the norm, [batch, queries, heads, head_dim].

    They cost nothing when no hook is registered. A hook on scores or pattern makes the call use the reference backend.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, variant: str, dropout: float, cross_attention: bool) -> None:
        super().__init__()
        assert embed_dim % num_heads == 0
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.variant = variant
        self.dropout = dropout
        # q, k and v of the same states are one fused projection.
        if cross_attention:
            self.q_proj = nn.Linear(embed_dim, embed_dim)
            self.kv_proj = nn.Linear(embed_dim, 2 * embed_dim)
        else:
            self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self._variant = ATTENTION_VARIANTS[variant]
        self.output_norm = (
            nn.Identity()
            if self._variant.output_norm == "none"
            else ReLANorm(embed_dim, gated=self._variant.output_norm == "gated_rms")
        )
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.hook_scores, self.hook_pattern, self.hook_z = HookPoint(), HookPoint(), HookPoint()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights. As in the paper's code, q, k, v are one matrix in self-attention only."""
        for name, child in self.named_children():
            if isinstance(child, nn.Linear):
                for block in child.weight.chunk(2) if name == "kv_proj" else (child.weight,):
                    nn.init.xavier_uniform_(block)
                nn.init.zeros_(child.bias)

    def forward(
        self,
        hidden_states: Tensor,
        mask: AttentionMask | None,
        *,
        key_value: KeyValue | None = None,
        update_cache: Callable[[Tensor, Tensor], KeyValue] | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output [batch, queries, embed_dim], and the weights [batch, heads, queries, keys] if they are asked for.

        ``hidden_states`` is [batch, queries, embed_dim]. Cross-attention takes ``key_value`` from `project_kv`.
        Self-attention of a step gives its keys and values to ``update_cache``, which returns those of the whole prefix.
        """
        if key_value is None:
            query, key, value = self.project_qkv(hidden_states)
            if update_cache is not None:
                key, value = update_cache(key, value)
        else:
            query, (key, value) = self.project_q(hidden_states), key_value
        dropout_p = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights or self.hook_scores.is_active or self.hook_pattern.is_active:
            scores = self.hook_scores(attention_scores(query, key, mask))
            weights = self.hook_pattern(attention_weights(self._variant, scores, mask))
            z = weighted_values(weights, value, dropout_p=dropout_p)
        else:
            z = attend(self._variant, query, key, value, mask, dropout=dropout_p)  # [batch, queries, heads, head_dim]
        if self.hook_z.is_active:
            z = self.hook_z(z)
        output = self._project_output(self.output_norm(z.flatten(2)).to(query.dtype))
        return output, weights if need_weights else None

    def project_qkv(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of self-attention: [batch, length, embed_dim] → 3 × [batch, heads, length, head_dim]."""
        query, key, value = self._split_heads(self.qkv_proj(hidden_states), 3)
        return query, key, value

    def project_q(self, hidden_states: Tensor) -> Tensor:
        """q of cross-attention: [batch, queries, embed_dim] → [batch, heads, queries, head_dim]."""
        return self._split_heads(self.q_proj(hidden_states), 1)[0]

    def project_kv(self, encoder_hidden_states: Tensor) -> KeyValue:
        """k and v of cross-attention: [batch, keys, embed_dim] → 2 × [batch, heads, keys, head_dim]."""
        key, value = self._split_heads(self.kv_proj(encoder_hidden_states), 2)
        return key, value

    @torch.no_grad()
    def fold_norm_gain(self) -> None:
        """Multiply the gain of the norm into ``out_proj`` permanently: for inference only."""
        if isinstance(self.output_norm, ReLANorm) and self.output_norm.weight is not None:
            self.out_proj.weight.mul_(self.output_norm.weight)
            self.output_norm.weight = None

    def _project_output(self, normed: Tensor) -> Tensor:
        """W_o (g ⊙ x) + b, with the gain g of the norm where there is one."""
        gain = self.output_norm.weight if isinstance(self.output_norm, ReLANorm) else None
        if gain is None:
            output: Tensor = self.out_proj(normed)
            return output
        return F.linear(normed, self.out_proj.weight * gain, self.out_proj.bias)

    def _split_heads(self, projected: Tensor, num_parts: int) -> tuple[Tensor, ...]:
        batch, length, _ = projected.shape
        packed = projected.view(batch, length, num_parts, self.num_heads, self.head_dim)
        if num_parts == 1:
            return (packed.squeeze(2).transpose(1, 2),)
        parts = _Unbind.apply(packed) if torch.is_grad_enabled() else packed.unbind(2)
        return tuple(part.transpose(1, 2) for part in parts)


class _Unbind(Function):
    """``packed.unbind(2)`` whose backward pass copies nothing where the gradients already lie packed.

    The gradients are stacked otherwise, in the memory layout of the projection.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> tuple[Tensor, ...]:
        return packed.unbind(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        packed = gradients[0]._base
        if packed is not None and packed.dim() == 5 and packed.shape[2] == len(gradients):
            parts = packed.unbind(2)
            if all(x._base is packed and _same_memory(x, y) for x, y in zip(gradients, parts, strict=True)):
                return packed
        return torch.stack(gradients, dim=2)


def _same_memory(x: Tensor, y: Tensor) -> bool:
    """Whether two views of one tensor are the same view."""
    return (x.shape, x.stride(), x.storage_offset()) == (y.shape, y.stride(), y.storage_offset())
