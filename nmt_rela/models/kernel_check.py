"""The kernels between the matrix multiplications of a layer, compared with their plain forms in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.kernel_check import DROPOUT, check_rate, compare
from nmt_rela.kernels.availability import triton_is_available_for
from nmt_rela.models.layers import NORM_EPSILON
from nmt_rela.utils.errors import first_line

#: Elements of the tensors: enough for the rate of dropout.
_NUMBERS = 1 << 14


def check_layers(dtype: torch.dtype, device: torch.device, *, width: int, training: bool) -> str | None:
    """Where the kernels of residual sums, layer norms and feed-forward blocks miss them; None where they do not.

    ``width`` is that of the layer norms. In training residual sums are float32, and the kernels run backward and drop;
    otherwise the sums are of ``dtype``, and feed-forward blocks have no kernel.
    """
    if not triton_is_available_for(torch.empty(0, dtype=dtype, device=device)):
        return None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            problem = _check_add_norm(dtype, device, width, training)
            if problem is None and training:
                problem = _check_relu(dtype, device, width)
        except Exception as error:  # of any type: whatever a kernel raises, the plain form can go on
            problem = f"layers: {first_line(error)}"
    return problem


def _check_add_norm(dtype: torch.dtype, device: torch.device, width: int, training: bool) -> str | None:
    from nmt_rela.kernels.triton.dropout_add_norm import dropout_add_norm_triton

    def add_norm(update: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *, dropout: float = 0.0) -> Tensor:
        return dropout_add_norm_triton(x, update, weight, bias, epsilon=NORM_EPSILON, dropout=dropout, dtype=dtype)[1]

    wide = torch.float32 if training else dtype
    x, update = torch.randn(2, _NUMBERS // width, width, device=device)
    weight, bias = torch.randn(2, width, device=device).to(wide)
    problem = compare(
        add_norm,
        lambda update, x, weight, bias: F.layer_norm(x + update, (width,), weight, bias, NORM_EPSILON),
        [update.to(dtype), x.to(wide), weight, bias],
        backward=training,
    )
    if problem is None and training:
        # Of equal numbers, the dropped ones are below the mean of their row.
        ones, upstream = torch.ones_like(update, dtype=dtype).requires_grad_(), torch.randn_like(update).to(dtype)
        output = add_norm(ones, torch.zeros_like(x), torch.ones_like(weight), torch.zeros_like(bias), dropout=DROPOUT)
        problem = _check_mask(output < -0.1, torch.autograd.grad(output, ones, upstream)[0] == 0)
    return f"layer norm in {dtype}: {problem}" if problem else None


def _check_relu(dtype: torch.dtype, device: torch.device, width: int) -> str | None:
    from nmt_rela.kernels.triton.relu_dropout import relu_dropout_triton

    x = torch.randn(_NUMBERS // width, width, device=device).to(dtype)
    problem = compare(lambda x: relu_dropout_triton(x, dropout=0.0), torch.relu, [x], backward=True)
    if problem is None:
        ones = torch.ones_like(x).requires_grad_()
        output = relu_dropout_triton(ones, dropout=DROPOUT)
        (gradient,) = torch.autograd.grad(output, ones, torch.ones_like(ones))
        problem = _check_mask(output == 0, gradient == 0)
    return f"feed-forward in {dtype}: {problem}" if problem else None


def _check_mask(dropped: Tensor, dropped_backward: Tensor) -> str | None:
    if not torch.equal(dropped, dropped_backward):
        return "dropout drops other elements backward than forward"
    return check_rate(dropped)
