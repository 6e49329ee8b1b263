"""Random numbers for dropout inside kernels: the same mask in the forward and the backward pass, never stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Dropout compares 24 random bits with a number of levels.
_LEVELS = tl.constexpr(1 << 24)


def dropped_levels(probability: float) -> int:
    """The number of levels, of 2²⁴, that mean "dropped"."""
    return round(probability * _LEVELS.value)


def draw_seed() -> int:
    """A seed for one call of a kernel, from the CPU's generator: nothing is launched and nothing is waited for.

    It always needs 64 bits, because Triton compiles anew for an argument that fits 32.
    """
    return int(torch.randint(1 << 32, 1 << 62, ()))


@triton.jit
def dropout_scale(seed, rows, columns, dropped):
    """1 / (1 − p) at kept elements, 0 at dropped ones: a function of the seed, the row and the column only.

    One Philox number per row is mixed with the column by the hash "lowbias32" (Wellons 2018). A Philox number for each
    element would take longer than the matmuls of attention.
    """
    bits = tl.randint(seed, rows).to(tl.uint32, bitcast=True) ^ columns.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    bits = bits ^ (bits >> 16)
    return tl.where((bits >> 8).to(tl.int32) >= dropped, _LEVELS / (_LEVELS - dropped), 0.0)
