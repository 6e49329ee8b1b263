"""One layer of the encoder, one of the decoder, and the blocks they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.attention.mask import AttentionMask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.kernels.availability import matmul_dtype, triton_is_available_for
from nmt_rela.kernels.cpu.dropout import dropout
from nmt_rela.models.layer_cache import LayerCache

NORM_EPSILON = 1e-8
#: The function between the two linear layers of a feed-forward block, by its name in ``model.activation``.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "swish": F.silu, "gelu": F.gelu}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerConfig:
    """What all layers of a model have in common; the names are those of ``config.schema.ModelConfig``."""

    d_model: int
    num_heads: int
    ffn_dim: int
    norm_order: Literal["post", "pre"]
    layer_norm_epsilon: float
    activation: str
    dropout: float
    attention_dropout: float
    ffn_dropout: float

    def attention(self, variant: str, *, cross_attention: bool = False) -> MultiHeadAttention:
        """An attention module of these layers."""
        return MultiHeadAttention(
            self.d_model,
            self.num_heads,
            variant=variant,
            dropout=self.attention_dropout,
            cross_attention=cross_attention,
        )


class ResidualStream(NamedTuple):
    """What flows from sublayer to sublayer, [batch, length, d_model], and its copy for the matmuls that follow.

    Under autocast the sums are float32, and a GPU kernel writes both at once. Elsewhere both are the same tensor.
    """

    sums: Tensor
    matmul_input: Tensor

    @classmethod
    def of(cls, x: Tensor) -> ResidualStream:
        """One tensor for both."""
        return cls(x, x)


def add_norm(norm: nn.LayerNorm, x: Tensor, update: Tensor | None = None, *, dropout_p: float = 0.0) -> ResidualStream:
    """LayerNorm(x + dropout(update)), or LayerNorm(x) without an update."""
    if triton_is_available_for(x):
        from nmt_rela.kernels.triton.dropout_add_norm import dropout_add_norm_triton

        return ResidualStream(
            *dropout_add_norm_triton(
                x, update, norm.weight, norm.bias, epsilon=norm.eps, dropout=dropout_p, dtype=matmul_dtype(x)
            )
        )
    normed = norm(x if update is None else x + dropout(update, dropout_p, dropout_p > 0.0))
    return ResidualStream.of(normed)


class SublayerConnection(nn.Module):
    """Residual sum, dropout and layer norm around a sublayer f: norm(x + f(x)) (post), or x + f(norm(x)) (pre)."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.is_pre_norm = config.norm_order == "pre"
        self.dropout = config.dropout

    def input(self, x: ResidualStream) -> Tensor:
        """What the sublayer reads."""
        return add_norm(self.layer_norm, x.sums).matmul_input if self.is_pre_norm else x.matmul_input

    def forward(self, x: ResidualStream, update: Tensor) -> ResidualStream:
        """The sum of ``x`` and what the sublayer made of its input."""
        dropout_p = self.dropout if self.training else 0.0
        if not self.is_pre_norm:
            return add_norm(self.layer_norm, x.sums, update, dropout_p=dropout_p)
        summed = x.sums + dropout(update, dropout_p, dropout_p > 0.0)
        return ResidualStream.of(summed)


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.activation = config.activation
        self.dropout = config.ffn_dropout
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)  # [batch, length, ffn_dim]
        if self.activation != "relu":
            hidden = dropout(ACTIVATIONS[self.activation](hidden), self.dropout, self.training)
        elif self.training and self.dropout and triton_is_available_for(hidden):
            from nmt_rela.kernels.triton.relu_dropout import relu_dropout_triton

            hidden = relu_dropout_triton(hidden, dropout=self.dropout)
        else:
            # In place only without gradients: autograd would copy the view that nn.Linear returns.
            hidden = hidden.relu() if torch.is_grad_enabled() else hidden.relu_()
            hidden = dropout(hidden, self.dropout, self.training)
        output: Tensor = self.fc2(hidden)
        return output


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: LayerConfig, *, attention: str) -> None:
        super().__init__()
        self.self_attention = config.attention(attention)
        self.feed_forward = FeedForward(config)
        self.self_attention_residual = SublayerConnection(config)
        self.feed_forward_residual = SublayerConnection(config)

    def forward(self, x: ResidualStream, mask: AttentionMask) -> ResidualStream:
        """[batch, length, d_model] → the same."""
        update, _ = self.self_attention(self.self_attention_residual.input(x), mask)
        x = self.self_attention_residual(x, update)
        output: ResidualStream = self.feed_forward_residual(x, self.feed_forward(self.feed_forward_residual.input(x)))
        return output


class DecoderLayer(nn.Module):
    """Self-attention over the prefix, cross-attention to the encoder's output, feed-forward."""

    def __init__(self, config: LayerConfig, *, self_attention: str, cross_attention: str) -> None:
        super().__init__()
        self.self_attention = config.attention(self_attention)
        self.cross_attention = config.attention(cross_attention, cross_attention=True)
        self.feed_forward = FeedForward(config)
        self.self_attention_residual = SublayerConnection(config)
        self.cross_attention_residual = SublayerConnection(config)
        self.feed_forward_residual = SublayerConnection(config)

    def forward(
        self,
        x: ResidualStream,
        encoder_hidden_states: Tensor | None,
        self_attention_mask: AttentionMask,
        cross_attention_mask: AttentionMask,
        cache: LayerCache | None = None,
    ) -> ResidualStream:
        """[batch, queries, d_model] → the same.

        Without ``cache``, ``x`` is the whole target. With it, ``x`` is the newest position of every beam: keys and
        values of the prefix and of the source come from the cache, and ``encoder_hidden_states`` is None.
        """
        update, _ = self.self_attention(
            self.self_attention_residual.input(x),
            self_attention_mask,
            update_cache=None if cache is None else cache.append,
        )
        x = self.self_attention_residual(x, update)
        if cache is not None:
            key_value = cache.cross
        else:
            assert encoder_hidden_states is not None
            key_value = self.cross_attention.project_kv(encoder_hidden_states)
        update, _ = self.cross_attention(
            self.cross_attention_residual.input(x), cross_attention_mask, key_value=key_value
        )
        x = self.cross_attention_residual(x, update)
        output: ResidualStream = self.feed_forward_residual(x, self.feed_forward(self.feed_forward_residual.input(x)))
        return output
