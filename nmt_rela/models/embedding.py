"""Sub-word embeddings and sinusoidal positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.kernels.cpu.dropout import dropout


def sinusoidal_positions(length: int, dimension: int) -> Tensor:
    """Position signals [length, dimension]: sines in the first half, cosines in the second (as in tensor2tensor).

    Wavelengths run geometrically from 2π to 10,000 · 2π. An odd dimension leaves its last column 0.
    """
    half = dimension // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float64) * -(math.log(10_000.0) / max(half - 1, 1)))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates[None]
    signals = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return F.pad(signals, (0, dimension - 2 * half))


class Embedding(nn.Module):
    """√d · embedding (+ a shared bias) + position, then dropout."""

    positions: Tensor

    def __init__(self, weight: nn.Parameter, *, bias: nn.Parameter | None, dropout: float) -> None:
        super().__init__()
        self.weight = weight  # [vocabulary, dimension]
        self.bias = bias  # [dimension]
        self.dropout = dropout
        self.register_buffer("positions", sinusoidal_positions(256, weight.shape[1]), persistent=False)

    def forward(self, tokens: Tensor, *, offset: int = 0, zero_first: bool = False) -> Tensor:
        """[batch, length] → [batch, length, dimension], the first token standing at position ``offset``.

        ``zero_first`` puts the zero vector in place of the first embedding (the released code's start).
        """
        end = offset + tokens.shape[1]
        positions = self.positions  # the one that is long enough, whatever another thread makes of the attribute
        if end > len(positions):
            with torch.inference_mode(False):  # kept for training too
                self.positions = positions = sinusoidal_positions(2 * end, self.weight.shape[1]).to(positions)
        scale = math.sqrt(self.weight.shape[1])
        embedded = F.embedding(tokens, self.weight) * scale
        if self.bias is not None:
            embedded = embedded + self.bias
        if zero_first:
            embedded = F.pad(embedded[:, 1:], (0, 0, 1, 0))
        return dropout(embedded + positions[offset:end], self.dropout, self.training)
