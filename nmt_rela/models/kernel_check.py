"""The kernels between the matrix multiplications of a layer, compared with their plain forms in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.kernel_check import compare
from nmt_rela.kernels.availability import triton_is_available_for
from nmt_rela.models.layers import NORM_EPSILON
from nmt_rela.utils.errors import first_line

_WIDTH = 96


def check_layers(dtype: torch.dtype, device: torch.device) -> str | None:
    """Where the kernels of residual sums, layer norms and feed-forward blocks miss them; None where they do not."""
    random = torch.Generator().manual_seed(0)
    update, x = (torch.randn(50, _WIDTH, generator=random).to(device) for _ in range(2))
    weight, bias = torch.randn(2, _WIDTH, generator=random).to(device)
    update = update.to(dtype)
    if not triton_is_available_for(update):
        return None

    def add_norm(update: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from nmt_rela.kernels.triton.dropout_add_norm import dropout_add_norm_triton

        return dropout_add_norm_triton(x, update, weight, bias, epsilon=NORM_EPSILON, dropout=0.0, dtype=dtype)[1]

    def relu(x: Tensor) -> Tensor:
        from nmt_rela.kernels.triton.relu_dropout import relu_dropout_triton

        return relu_dropout_triton(x, dropout=0.0)

    try:
        problem = compare(
            add_norm,
            lambda update, x, weight, bias: F.layer_norm(x + update, (_WIDTH,), weight, bias, NORM_EPSILON),
            [update, x, weight, bias],
            backward=True,
        )
        if problem:
            return f"layer norm in {dtype}: {problem}"
        problem = compare(relu, torch.relu, [update], backward=True)
    except Exception as error:  # of any type: whatever a kernel raises, the plain form can go on
        problem = first_line(error)
    return f"feed-forward in {dtype}: {problem}" if problem else None
