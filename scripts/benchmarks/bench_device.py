"""The ceilings of a device: memory copies, bf16 matmuls, PyTorch's fused attention with cuDNN and without.

The matmuls are a large one and those of an update of Transformer base with 25,000 tokens. Fused attention runs forward
and backward with two shapes that it has not seen, and with the first again. Then equal scores and the identity as
values show which fraction of the weights a dropout of 0.1 drops.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from harness import describe, environment, make_parser, seconds_of, write_document
from memory_bandwidth import copy_rate
from torch.nn import functional as F

from nmt_rela.commands import cli
from nmt_rela.generation.device import resolve_device

#: Rows, inner dimension, columns.
LARGE = (8192, 8192, 8192)
BASE = [(25_000, 512, 512), (25_000, 512, 2048), (25_000, 2048, 512), (4_096, 512, 32_000)]
ROUNDS = 10


def matmul_tflops(shape: tuple[int, int, int], device: torch.device) -> float:
    """10¹² floating-point operations per second of a bf16 matmul of random matrices, median."""
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
    right = torch.randn(inner, columns, device=device, dtype=torch.bfloat16)
    left @ right
    seconds = statistics.median(seconds_of(lambda: left @ right, device, calls=10) for _ in range(ROUNDS))
    return 2 * rows * inner * columns / seconds / 1e12


def fused_attention(device: torch.device, *, cudnn: bool, batch: int) -> dict[str, Any]:
    """Seconds of a forward and backward pass of a new shape, another new one and the first again; rate of dropout."""
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    seconds = []
    for length in (28, 29, 28):
        query, key, value = (
            torch.randn(batch, 8, length, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
        )
        mask = torch.zeros(batch, 1, 1, length, device=device, dtype=torch.bfloat16)
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()  # the CPU plans
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.1).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(round(time.perf_counter() - start, 4))
    query, key = torch.zeros(2, batch, 8, 512, 64, device=device, dtype=torch.bfloat16).unbind()
    value = torch.zeros_like(key)
    value[:, :, :64] = 512 * torch.eye(64, device=device)
    dropped = F.scaled_dot_product_attention(query, key, value, dropout_p=0.1) == 0
    return {"seconds_new_new_seen": seconds, "dropped": round(float(dropped.double().mean()), 4)}


def main() -> int:
    """Measure, print."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="small matrices, for a CPU")
    options = parser.parse_args()
    device = resolve_device(options.device)
    small = options.small or device.type == "cpu"
    document: dict[str, Any] = environment(device)
    print(describe(document), flush=True)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        document |= {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    document["copy_tb_per_second"] = round(copy_rate(device) / 1e12, 4)
    print(f"copy: {document['copy_tb_per_second']:.3f} TB/s", flush=True)
    document["matmul_tflops"] = {}
    for shape in [(256, 256, 256)] if small else [LARGE, *BASE]:
        name = " × ".join(map(str, shape))
        document["matmul_tflops"][name] = rate = round(matmul_tflops(shape, device), 3)
        print(f"matmul {name}: {rate:.3f} TFLOP/s", flush=True)
    document["fused_attention"] = {}
    for cudnn in (False, True):
        name = "with cuDNN" if cudnn else "without cuDNN"
        try:
            document["fused_attention"][name] = fused_attention(device, cudnn=cudnn, batch=2 if small else 64)
        except RuntimeError as error:  # a version that refuses
            document["fused_attention"][name] = {"error": str(error)}
        print(f"fused attention {name}: {document['fused_attention'][name]}", flush=True)
        write_document(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_device", lambda _: main()))
