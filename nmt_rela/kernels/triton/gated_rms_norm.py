"""RMSNorm with the gate of ReLA in Triton: forward and backward read and write the activations once each."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

# Rows are distributed over this many programs. Each sums the gradient of the gate over its rows.
_PROGRAMS = 1024


def gated_rms_norm_triton(heads: Tensor, gate: Tensor | None, *, epsilon: float) -> Tensor:
    """σ(a ⊙ z) ⊙ z / √(mean(z²) + ε), without σ where there is no gate: [..., width] → [..., width].

    Takes float32, bfloat16 or float16, computes in float32 and returns the input's dtype.
    """
    with torch.cuda.device_of(heads):
        output: Tensor = _GatedRMSNorm.apply(heads, gate, epsilon)
    return output


@triton.jit(do_not_specialize=["count"])
def _forward_kernel(
    Z, Gate, Output, Inverse, count, epsilon, GATED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate = tl.zeros([BLOCK], tl.float32)
    if GATED:
        gate = tl.load(Gate + columns, mask=inside, other=0.0).to(tl.float32)
    for row in range(tl.program_id(0), count, tl.num_programs(0)):
        offsets = (tl.zeros([BLOCK], tl.int64) + row) * WIDTH + columns
        z = tl.load(Z + offsets, mask=inside, other=0.0).to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.sum(z * z, axis=0) / WIDTH + epsilon)
        output = z * inverse
        if GATED:
            output *= tl.sigmoid(z * gate)
        tl.store(Output + offsets, output.to(Output.dtype.element_ty), mask=inside)
        tl.store(Inverse + row, inverse)


@triton.jit(do_not_specialize=["count"])
def _backward_kernel(
    Z, Gate, Inverse, DO, Gradient, GateGradients, count,
    GATED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate = tl.zeros([BLOCK], tl.float32)
    gate_gradient = tl.zeros([BLOCK], tl.float32)
    if GATED:
        gate = tl.load(Gate + columns, mask=inside, other=0.0).to(tl.float32)
    for row in range(tl.program_id(0), count, tl.num_programs(0)):
        offsets = (tl.zeros([BLOCK], tl.int64) + row) * WIDTH + columns
        z = tl.load(Z + offsets, mask=inside, other=0.0).to(tl.float32)
        grad_output = tl.load(DO + offsets, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(Inverse + row)
        normed = z * inverse  # n, with output = σ(a z) · n
        through_gate = tl.zeros([BLOCK], tl.float32)
        if GATED:
            sigma = tl.sigmoid(z * gate)
            gate_slope = grad_output * sigma * (1.0 - sigma) * normed  # the part of the gradient that reaches a z
            gate_gradient += gate_slope * z
            through_gate = gate_slope * gate
            grad_output *= sigma
        # ∂n/∂z = inverse · (1 − n nᵀ / width)
        gradient = (grad_output - normed * (tl.sum(grad_output * normed, axis=0) / WIDTH)) * inverse + through_gate
        tl.store(Gradient + offsets, gradient.to(Gradient.dtype.element_ty), mask=inside)
    if GATED:
        own = tl.program_id(0).to(tl.int64) * WIDTH + columns
        tl.store(GateGradients + own, gate_gradient, mask=inside)


class _GatedRMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, gate: Tensor | None, epsilon: float) -> Tensor:
        heads = heads.contiguous()
        width, count = heads.shape[-1], heads.numel() // heads.shape[-1]
        output = torch.empty_like(heads)
        inverse = heads.new_empty(count, dtype=torch.float32)
        constants = _constants(width, gate)
        if count:
            _forward_kernel[(min(count, _PROGRAMS * 8),)](heads, gate, output, inverse, count, epsilon, **constants)
        ctx.save_for_backward(heads, gate, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        heads, gate, inverse = ctx.saved_tensors
        width, count = heads.shape[-1], inverse.numel()
        programs = min(count, _PROGRAMS)
        gradient = torch.empty_like(heads)
        sums = None if gate is None else gate.new_empty(programs, width, dtype=torch.float32)
        if count:
            _backward_kernel[(programs,)](
                heads, gate, inverse, grad_output.contiguous(), gradient, sums, count, **_constants(width, gate)
            )
        return gradient, None if sums is None else sums.sum(dim=0).to(gate.dtype), None


def _constants(width: int, gate: Tensor | None) -> dict[str, int | bool]:
    block = triton.next_power_of_2(width)
    return {"GATED": gate is not None, "WIDTH": width, "BLOCK": block, "num_warps": min(8, max(1, block // 256))}
