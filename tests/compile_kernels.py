"""Compile every kernel for a GPU that need not be there, as its launches ask, and print what the compiler made of it.

Run as a script, without TRITON_INTERPRET: ``python compile_kernels.py 90`` for compute capability 9.0. It prints the
version of Triton, then one line per kernel: name, tile, registers, bytes of stack (numbers that did not fit the
registers), bytes of shared memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from nmt_rela.kernels.triton.cross_entropy import cross_entropy_forward_backward
from nmt_rela.kernels.triton.dropout_add_norm import dropout_add_norm_triton
from nmt_rela.kernels.triton.gated_rms_norm import gated_rms_norm_triton
from nmt_rela.kernels.triton.relu_dropout import relu_dropout_triton
from nmt_rela.kernels.triton.sparse_attention import sparse_attention
from nmt_rela.kernels.triton.topk import fused_candidates

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class NoDevice:
    """A driver that knows its target and nothing else."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main() -> None:
    print(triton.__version__, flush=True)
    driver.set_active(NoDevice(int(sys.argv[1])))
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        report(run(self, *arguments, grid=grid, warmup=True, **options), options)

    JITFunction.run = compile_only
    torch.manual_seed(0)
    for weight_fn, dtype, head_dim, length, causal in (
        ("relu", torch.bfloat16, 64, 50, False),
        ("relu", torch.float16, 64, 300, True),
        ("relu", torch.float32, 64, 50, False),
        ("sparsemax", torch.bfloat16, 64, 50, False),
        ("entmax15", torch.bfloat16, 64, 100, False),
        ("entmax15", torch.bfloat16, 128, 100, True),
    ):
        query, key, value = (torch.randn(2, 2, length, head_dim, dtype=dtype, requires_grad=True) for _ in range(3))
        bias = None if causal else torch.zeros(2, 1, 1, length)
        sparse_attention(weight_fn, query, key, value, bias=bias, causal=causal, dropout=0.1).sum().backward()
    heads = torch.randn(4, 512, dtype=torch.bfloat16, requires_grad=True)
    gate = torch.ones(512, requires_grad=True)
    gated_rms_norm_triton(heads, gate, epsilon=1e-8).sum().backward()
    weight, bias = (torch.ones(512, requires_grad=True) for _ in range(2))
    sums = torch.randn(4, 512, requires_grad=True)
    for x, update, dropout in (
        (sums, heads, 0.1),
        (sums, None, 0.0),
        (heads, heads, 0.0),
    ):  # training, pre-norm, inference
        outputs = dropout_add_norm_triton(x, update, weight, bias, epsilon=1e-5, dropout=dropout, dtype=torch.bfloat16)
        torch.autograd.backward([output.sum() for output in outputs])
    relu_dropout_triton(torch.randn(4, 2048, dtype=torch.bfloat16, requires_grad=True), dropout=0.1).sum().backward()
    cross_entropy_forward_backward(
        torch.randn(4, 32_000).bfloat16(), torch.arange(4), smoothing=0.1, with_gradient=True
    )
    suppressed = torch.arange(4)
    for dtype, beams, vocabulary in (
        (torch.bfloat16, 4, 32_000),
        (torch.float32, 1, 32_001),
        (torch.float16, 16, 32_000),
    ):
        logits, scores = torch.empty(2, beams, vocabulary, dtype=dtype), torch.empty(2, beams)
        fused_candidates(scores, logits, suppressed, 2 * max(beams, 4))


def report(kernel: Any, options: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        found = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", found).groups()
    tile = ".".join(
        str(options[name]) for name in ("WEIGHT_FN", "HEAD_DIM", "BLOCK_M", "BLOCK_N", "num_warps") if name in options
    )
    print(kernel.name, tile or "-", registers, stack, kernel.metadata.shared, flush=True)


if __name__ == "__main__":
    main()
