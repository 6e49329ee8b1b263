"""Multi-head attention, for all three sites and all five kinds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.attention.backends import fused_backend
from nmt_rela.attention.dot_products import dot_products
from nmt_rela.attention.mask import Mask
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels.cpu.dropout import dropout


class MultiHeadAttention(nn.Module):
    """w = map(q kᵀ / √width + mask), output = W_o · norm(concat(dropout(w) v)).

    The projections and the attending are separate methods, so that a decoder can keep keys and values.

    Two attributes serve the analysis. ``observer`` receives the weights of every call, float32, before dropout:
    [batch, heads, queries, keys]. ``head_mask`` [heads] multiplies the heads' outputs.
    """

    def __init__(self, dimension: int, heads: int, *, kind: str, dropout: float, cross: bool) -> None:
        super().__init__()
        assert dimension % heads == 0
        self.dimension, self.heads, self.width = dimension, heads, dimension // heads
        self.kind = kind
        self.dropout = dropout
        # One matrix product for whatever is projected from the same states.
        if cross:
            self.query = nn.Linear(dimension, dimension)
            self.key_value = nn.Linear(dimension, 2 * dimension)
        else:
            self.query_key_value = nn.Linear(dimension, 3 * dimension)
        self.output_norm = ATTENTION_VARIANTS[kind].output_norm(dimension)
        self.output = nn.Linear(dimension, dimension)
        self.observer: Callable[[Tensor], None] | None = None
        self.head_mask: Tensor | None = None
        self._mapping = ATTENTION_VARIANTS[kind].mapping
        self._normalised = ATTENTION_VARIANTS[kind].normalised
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform, over the matrices of the paper's code: q, k, v fused in self-attention, apart in cross."""
        for name, child in self.named_children():
            if isinstance(child, nn.Linear):
                for block in child.weight.chunk(2) if name == "key_value" else (child.weight,):
                    nn.init.xavier_uniform_(block)
                nn.init.zeros_(child.bias)

    @torch.no_grad()
    def absorb_gain(self) -> None:
        """Multiply the gain of the norm into the output matrix for good: for inference only."""
        gain = getattr(self.output_norm, "gain", None)
        if gain is not None:
            self.output.weight.mul_(gain)
            self.output_norm.register_parameter("gain", None)

    def project_self(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values of self-attention: [batch, length, dimension] → 3 × [batch, heads, length, width]."""
        query, key, value = self._split(self.query_key_value(states), 3)
        return query, key, value

    def project_query(self, states: Tensor) -> Tensor:
        """Queries of cross-attention: [batch, queries, dimension] → [batch, heads, queries, width]."""
        return self._split(self.query(states), 1)[0]

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of cross-attention: [batch, keys, dimension] → 2 × [batch, heads, keys, width]."""
        key, value = self._split(self.key_value(memory), 2)
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
        """The heads' outputs, normed and projected: [batch, queries, dimension].

        ``query`` is [batch, heads, queries, width], ``key`` and ``value`` [batch, heads, keys, width].
        """
        probability = self.dropout if self.training else 0.0
        heads = None
        if self.observer is None:
            heads = fused_backend(self.kind, query, key, value, mask, dropout=probability)
        if heads is None:
            weights = self.weights(query, key, mask)  # [batch, heads, queries, keys]
            if self.observer is not None:
                self.observer(weights.detach().float())
            heads = torch.matmul(dropout(weights, probability, self.training), value).transpose(1, 2)
        if self.head_mask is not None:
            heads = heads * self.head_mask.to(heads.dtype)[:, None]  # [batch, queries, heads, width]
        return self._project_output(self.output_norm(heads.flatten(2)).to(query.dtype))

    def weights(self, query: Tensor, key: Tensor, mask: Mask | None) -> Tensor:
        """Attention weights before dropout: [batch, heads, queries, keys]; a masked key has exactly 0."""
        scores = dot_products(query, key)
        scale = self.width**-0.5
        # One pass does both. To scale the queries instead would pay beyond some 256 keys only.
        scores = scores * scale if mask is None else torch.add(mask.bias_for(scores), scores, alpha=scale)
        weights = self._mapping(scores)
        if mask is not None and mask.dead is not None and self._normalised:
            weights = weights.masked_fill(mask.dead, 0.0)
        return weights

    def _project_output(self, normed: Tensor) -> Tensor:
        """W_o diag(g) x + b, with the gain g of the norm where there is one: [batch, queries, dimension] → the same."""
        gain: Tensor | None = getattr(self.output_norm, "gain", None)
        if gain is None:
            output: Tensor = self.output(normed)
            return output
        return F.linear(normed, self.output.weight * gain, self.output.bias)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        batch, length, _ = projected.shape
        # Unbound first: the gradients of the parts are then put together as they lie in memory.
        pieces = projected.view(batch, length, parts, self.heads, self.width).unbind(2)
        return tuple(piece.transpose(1, 2) for piece in pieces)
