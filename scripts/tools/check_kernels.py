#!/usr/bin/env python3
"""Compare the GPU kernels of every attention variant, the layers, the loss and the search with the reference.

Every line is one variant in one dtype: three sites, norm, gradients, rate of dropout. The exit status is 1 if a kernel
misses the reference. Training and translation do the same for the kernels that they will use. On a CPU
(``--device cpu``) Triton's interpreter runs the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

if "cpu" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch

from nmt_rela.attention.kernel_check import check_attention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import cli
from nmt_rela.generation.device import resolve_device
from nmt_rela.generation.kernel_check import check_candidates
from nmt_rela.kernels.availability import assume_processor
from nmt_rela.models.kernel_check import check_layers
from nmt_rela.training.kernel_check import check_loss


def main() -> int:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attention", nargs="+", default=list(ATTENTION_VARIANTS), choices=list(ATTENTION_VARIANTS))
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32", "float16"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found here too")
    options = parser.parse_args()
    device = resolve_device(options.device)
    found: dict[str, str | None] = {}
    with assume_processor("gpu"):
        for name in options.dtype:
            dtype = getattr(torch, name)
            for variant in options.attention:
                problems = check_attention(
                    frozenset({variant}), head_dim=options.head_dim, dtype=dtype, device=device, backward=True
                )
                found[f"{variant}, {name}"] = "; ".join(problems.values()) or None
            for stage in ("training", "inference"):
                problem = check_layers(dtype, device, width=512, training=stage == "training")
                found[f"layers in {stage}, {name}"] = problem
            found[f"loss, {name}"] = check_loss(dtype, device)
            found[f"candidates of a search, {name}"] = check_candidates(dtype, device)
    for what, problem in found.items():
        print(f"{what:<34}{problem or 'agrees'}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(cli.run("check_kernels", lambda _: main()))
