"""Dropout, residual sum and layer norm in Triton, each way in one pass over the activations."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from nmt_rela.kernels.triton.dropout import draw_seed, dropout_scale, dropped_levels

# Rows are distributed over this many programs backward. Each sums the gradients of weight and bias over its rows.
_PROGRAMS = 1024


def dropout_add_norm_triton(
    x: Tensor,
    update: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    epsilon: float,
    dropout: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """LayerNorm(x + dropout(update)), twice: in the dtype of ``x``, and in ``dtype`` for the matmuls that follow.

    ``x`` is [..., width] and ``update`` the same, or None for LayerNorm(x); ``weight`` and ``bias`` are [width]. Takes
    float32, bfloat16 or float16 and computes in float32. The two results are one tensor where the dtypes agree.
    ``dropout`` is the probability, 0 at evaluation; it takes one seed from the CPU's generator.
    """
    with torch.cuda.device_of(x):
        outputs: tuple[Tensor, ...] = _DropoutAddNorm.apply(x, update, weight, bias, epsilon, dropout, dtype)
    return outputs[0], outputs[-1]


@triton.jit
def _summed(X, Update, offsets, inside, row, columns, seed, dropped, UPDATE: tl.constexpr, DROPOUT: tl.constexpr):
    """x + dropout(update) of one row."""
    x = tl.load(X + offsets, mask=inside, other=0.0).to(tl.float32)
    if UPDATE:
        update = tl.load(Update + offsets, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            update *= dropout_scale(seed, row, columns, dropped)
        x += update
    return x


@triton.jit(do_not_specialize=["seed", "dropped"])
def _forward_kernel(
    X, Update, Weight, Bias, Output, Low, Mean, Inverse, seed, dropped, epsilon,
    UPDATE: tl.constexpr, DROPOUT: tl.constexpr, LOW: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    offsets = row * WIDTH + columns
    x = _summed(X, Update, offsets, inside, row, columns, seed, dropped, UPDATE, DROPOUT)
    mean = tl.sum(x, axis=0) / WIDTH
    centred = tl.where(inside, x - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / WIDTH + epsilon)
    weight = tl.load(Weight + columns, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(Bias + columns, mask=inside, other=0.0).to(tl.float32)
    output = centred * inverse * weight + bias
    tl.store(Output + offsets, output.to(Output.dtype.element_ty), mask=inside)
    if LOW:
        tl.store(Low + offsets, output.to(Low.dtype.element_ty), mask=inside)
    tl.store(Mean + row, mean)
    tl.store(Inverse + row, inverse)


@triton.jit(do_not_specialize=["seed", "dropped", "count"])
def _backward_kernel(
    X, Update, Weight, Mean, Inverse, DO, DLow, XGradient, UpdateGradient, Sums, seed, dropped, count,
    UPDATE: tl.constexpr, DROPOUT: tl.constexpr, OUTPUT: tl.constexpr, LOW: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    weight = tl.load(Weight + columns, mask=inside, other=0.0).to(tl.float32)
    weight_gradient = tl.zeros([BLOCK], tl.float32)
    bias_gradient = tl.zeros([BLOCK], tl.float32)
    for row in range(tl.program_id(0), count, tl.num_programs(0)):
        wide_row = tl.zeros([1], tl.int64) + row
        offsets = wide_row * WIDTH + columns
        x = _summed(X, Update, offsets, inside, wide_row, columns, seed, dropped, UPDATE, DROPOUT)
        inverse = tl.load(Inverse + row)
        normed = tl.where(inside, (x - tl.load(Mean + row)) * inverse, 0.0)
        gradient = tl.zeros([BLOCK], tl.float32)
        if OUTPUT:
            gradient += tl.load(DO + offsets, mask=inside, other=0.0).to(tl.float32)
        if LOW:
            gradient += tl.load(DLow + offsets, mask=inside, other=0.0).to(tl.float32)
        weight_gradient += gradient * normed
        bias_gradient += gradient
        gradient *= weight
        # ∂normed/∂x = inverse · (1 − 1 1ᵀ / width − normed normedᵀ / width)
        mean = tl.sum(gradient, axis=0) / WIDTH
        along = tl.sum(gradient * normed, axis=0) / WIDTH
        gradient = (gradient - mean - normed * along) * inverse
        tl.store(XGradient + offsets, gradient.to(XGradient.dtype.element_ty), mask=inside)
        if UPDATE:
            if DROPOUT:
                gradient *= dropout_scale(seed, wide_row, columns, dropped)
            tl.store(UpdateGradient + offsets, gradient.to(UpdateGradient.dtype.element_ty), mask=inside)
    own = tl.program_id(0).to(tl.int64) * 2 * WIDTH + columns
    tl.store(Sums + own, weight_gradient, mask=inside)
    tl.store(Sums + own + WIDTH, bias_gradient, mask=inside)


class _DropoutAddNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor,
        epsilon: float, dropout: float, dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        x, update = x.contiguous(), None if update is None else update.contiguous()
        width, count = x.shape[-1], x.numel() // x.shape[-1]
        dropped = dropped_levels(dropout) if update is not None else 0
        seed = draw_seed() if dropped else 0
        outputs = [torch.empty_like(x)] if dtype == x.dtype else [torch.empty_like(x), torch.empty_like(x, dtype=dtype)]
        mean, inverse = x.new_empty(2, count, dtype=torch.float32).unbind()
        constants = {"UPDATE": update is not None, "DROPOUT": dropped > 0, **_block(width)}
        if count:
            _forward_kernel[(count,)](
                x, update, weight, bias, outputs[0], outputs[-1], mean, inverse, seed, dropped, epsilon,
                LOW=len(outputs) > 1, **constants,
            )  # fmt: skip
        ctx.save_for_backward(x, update, weight, mean, inverse)
        ctx.set_materialize_grads(False)
        ctx.arguments = (seed, dropped, count, constants)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, update, weight, mean, inverse = ctx.saved_tensors
        seed, dropped, count, constants = ctx.arguments
        upstream = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        low = upstream[1] if len(upstream) > 1 else None
        x_gradient = torch.empty_like(x)
        update_gradient = None if update is None else torch.empty_like(update)
        programs = min(count, _PROGRAMS)
        sums = weight.new_empty(programs, 2, x.shape[-1], dtype=torch.float32)
        if count:
            _backward_kernel[(programs,)](
                x, update, weight, mean, inverse, upstream[0], low, x_gradient, update_gradient, sums,
                seed, dropped, count, OUTPUT=upstream[0] is not None, LOW=low is not None, **constants,
            )  # fmt: skip
        weight_gradient, bias_gradient = sums.sum(dim=0).to(weight.dtype).unbind()
        return x_gradient, update_gradient, weight_gradient, bias_gradient, None, None, None


def _block(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"WIDTH": width, "BLOCK": block, "num_warps": min(8, max(1, block // 256))}
