"""ReLU and dropout in one pass each way. Nothing but the output is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from nmt_rela.kernels.triton.dropout import _LEVELS, draw_seed, dropout_scale, dropped_levels

_BLOCK = 1024


def relu_dropout_triton(x: Tensor, *, dropout: float) -> Tensor:
    """dropout(max(0, x)) of a tensor [..., width], float32, bfloat16 or float16; the gradient at 0 is 0.

    Dropout takes one seed from the CPU's generator.
    """
    with torch.cuda.device_of(x):
        output: Tensor = _ReLUDropout.apply(x, dropout)
    return output


@triton.jit(do_not_specialize=["seed", "dropped"])
def _forward_kernel(X, Output, width, blocks, seed, dropped, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(X + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    output = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) * dropout_scale(seed, row, columns, dropped)
    tl.store(Output + row * width + columns, output.to(Output.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(Output, DO, Gradient, count, scale, BLOCK: tl.constexpr):
    """What is positive was kept and positive before."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    output = tl.load(Output + offsets, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(DO + offsets, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.where(output > 0.0, gradient * scale, 0.0)
    tl.store(Gradient + offsets, gradient.to(Gradient.dtype.element_ty), mask=inside)


class _ReLUDropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: float) -> Tensor:
        x, width = x.contiguous(), x.shape[-1]
        dropped, blocks = dropped_levels(dropout), triton.cdiv(width, _BLOCK)
        output = torch.empty_like(x)
        if x.numel():
            grid = (x.numel() // width * blocks,)
            _forward_kernel[grid](x, output, width, blocks, draw_seed(), dropped, BLOCK=_BLOCK)
        ctx.save_for_backward(output)
        ctx.scale = _LEVELS.value / (_LEVELS.value - dropped)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        gradient = torch.empty_like(output)
        count = output.numel()
        if count:
            grid = (triton.cdiv(count, _BLOCK),)
            _backward_kernel[grid](output, grad_output.contiguous(), gradient, count, ctx.scale, BLOCK=_BLOCK)
        return gradient, None
