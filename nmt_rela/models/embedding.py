"""Token embeddings and sinusoidal positions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.kernels.cpu.dropout import dropout

PositionLayout = Literal["tensor2tensor", "marian"]


def sinusoidal_positions(length: int, d_model: int, layout: PositionLayout = "tensor2tensor") -> Tensor:
    """Position signals [length, d_model]: sines in the first half, cosines in the second.

    Wavelengths grow geometrically from 2π to 10,000 · 2π (tensor2tensor), or stop one step before that (marian, as in
    Vaswani et al. 2017). With an odd width tensor2tensor leaves the last column 0, and marian has one more sine.
    """
    half = d_model // 2
    sines, steps = (half, max(half - 1, 1)) if layout == "tensor2tensor" else (d_model - half, d_model / 2)
    rates = torch.exp(torch.arange(sines, dtype=torch.float64) * -(math.log(10_000.0) / steps))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates[None]
    signals = torch.cat([angles.sin(), angles[:, :half].cos()], dim=1).float()
    return F.pad(signals, (0, d_model - sines - half))


class TokenEmbedding(nn.Module):
    """√d · embedding (+ a shared bias); `add_positions` adds the positions, then applies dropout."""

    positions: Tensor

    def __init__(
        self,
        weight: nn.Parameter,
        *,
        bias: nn.Parameter | None,
        dropout: float,
        scaled: bool = True,
        layout: PositionLayout = "tensor2tensor",
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(weight.shape[1]) if scaled else 1.0
        self.layout = layout
        self.weight = weight  # [vocabulary, d_model]
        self.bias = bias  # [d_model]
        self.dropout = dropout
        self.register_buffer("positions", self.signals(256), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [...] → vectors [..., d_model], without positions."""
        embedded = F.embedding(tokens, self.weight) * self.scale
        return embedded if self.bias is None else embedded + self.bias

    def signals(self, length: int) -> Tensor:
        """What is added at positions 0 … length - 1: [length, d_model]."""
        return sinusoidal_positions(length, self.weight.shape[1], self.layout)

    def add_positions(self, embedded: Tensor, *, offset: int = 0) -> Tensor:
        """[batch, length, d_model] → the same. The first vector is at position ``offset``."""
        end = offset + embedded.shape[1]
        return dropout(embedded + self.positions_to(end)[offset:end], self.dropout, self.training)

    def positions_to(self, end: int) -> Tensor:
        """The buffer, grown to at least ``end`` positions: [≥ end, d_model]."""
        positions = self.positions  # a local: another thread may replace the attribute
        if end > len(positions):
            with torch.inference_mode(False):  # the buffer serves training too
                self.positions = positions = self.signals(2 * end).to(positions)
        return positions
