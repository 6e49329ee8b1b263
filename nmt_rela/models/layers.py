"""One layer of the encoder, one of the decoder, and the blocks they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from nmt_rela.attention.mask import Mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.kernels.cpu.dropout import dropout

NORM_EPSILON = 1e-8


class Residual(nn.Module):
    """A block with its residual sum, dropout and layer norm: norm(x + f(x)), or x + f(norm(x))."""

    def __init__(self, dimension: int, *, norm: Literal["post", "pre"], dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dimension, eps=NORM_EPSILON)
        self.pre = norm == "pre"
        self.dropout = dropout

    def forward(self, states: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
        update = block(self.layer_norm(states) if self.pre else states)
        summed = states + dropout(update, self.dropout, self.training)
        return summed if self.pre else self.layer_norm(summed)


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear."""

    def __init__(self, dimension: int, inner: int, *, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dimension, inner)
        self.output = nn.Linear(inner, dimension)
        self.dropout = dropout
        for linear in (self.inner, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        inner = dropout(self.inner(states).relu_(), self.dropout, self.training)
        output: Tensor = self.output(inner)
        return output


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(
        self,
        *,
        dimension: int,
        heads: int,
        feed_forward: int,
        attention: str,
        norm: Literal["post", "pre"],
        dropout: float,
        attention_dropout: float,
        feed_forward_dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(
            dimension, heads, kind=attention, dropout=attention_dropout, cross=False
        )
        self.feed_forward = FeedForward(dimension, feed_forward, dropout=feed_forward_dropout)
        self.self_residual = Residual(dimension, norm=norm, dropout=dropout)
        self.feed_forward_residual = Residual(dimension, norm=norm, dropout=dropout)

    def forward(self, states: Tensor, mask: Mask) -> Tensor:
        """[batch, length, dimension] → the same."""
        attention = self.self_attention
        states = self.self_residual(states, lambda x: attention.attend(*attention.project_self(x), mask))
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output


class DecoderLayer(nn.Module):
    """Self-attention over the prefix, attention to the memory, feed-forward."""

    def __init__(
        self,
        *,
        dimension: int,
        heads: int,
        feed_forward: int,
        self_attention: str,
        cross_attention: str,
        norm: Literal["post", "pre"],
        dropout: float,
        attention_dropout: float,
        feed_forward_dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(
            dimension, heads, kind=self_attention, dropout=attention_dropout, cross=False
        )
        self.cross_attention = MultiHeadAttention(
            dimension, heads, kind=cross_attention, dropout=attention_dropout, cross=True
        )
        self.feed_forward = FeedForward(dimension, feed_forward, dropout=feed_forward_dropout)
        self.self_residual = Residual(dimension, norm=norm, dropout=dropout)
        self.cross_residual = Residual(dimension, norm=norm, dropout=dropout)
        self.feed_forward_residual = Residual(dimension, norm=norm, dropout=dropout)

    def forward(
        self,
        states: Tensor,
        attend_self: Callable[[Tensor], Tensor],
        attend_memory: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """[batch, queries, dimension] → the same. Whole targets and single steps differ only in how they attend."""
        states = self.self_residual(states, attend_self)
        states = self.cross_residual(states, attend_memory)
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output
