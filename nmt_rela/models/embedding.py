"""Token embeddings and sinusoidal positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.kernels.cpu.dropout import dropout


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """Position signals [length, d_model]: sines in the first half, cosines in the second (as in tensor2tensor).

    Wavelengths grow geometrically from 2π to 10,000 · 2π. With an odd width the last column is 0.
    """
    half = d_model // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float64) * -(math.log(10_000.0) / max(half - 1, 1)))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates[None]
    signals = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return F.pad(signals, (0, d_model - 2 * half))


class TokenEmbedding(nn.Module):
    """√d · embedding (+ a shared bias) + position, then dropout."""

    positions: Tensor

    def __init__(self, weight: nn.Parameter, *, bias: nn.Parameter | None, dropout: float) -> None:
        super().__init__()
        self.weight = weight  # [vocabulary, d_model]
        self.bias = bias  # [d_model]
        self.dropout = dropout
        self.register_buffer("positions", sinusoidal_positions(256, weight.shape[1]), persistent=False)

    def forward(self, tokens: Tensor, *, offset: int = 0, zero_first: bool = False) -> Tensor:
        """[batch, length] → [batch, length, d_model]. The first token is at position ``offset``.

        ``zero_first`` replaces the first embedding by the zero vector (the start of the released code).
        """
        end = offset + tokens.shape[1]
        positions = self.positions  # a local: another thread may replace the attribute
        if end > len(positions):
            with torch.inference_mode(False):  # the buffer serves training too
                self.positions = positions = sinusoidal_positions(2 * end, self.weight.shape[1]).to(positions)
        scale = math.sqrt(self.weight.shape[1])
        embedded = F.embedding(tokens, self.weight) * scale
        if self.bias is not None:
            embedded = embedded + self.bias
        if zero_first:
            embedded = F.pad(embedded[:, 1:], (0, 0, 1, 0))
        return dropout(embedded + positions[offset:end], self.dropout, self.training)
