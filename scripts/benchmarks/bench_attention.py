"""Attention alone: scores, weights, dropout and the sum of values, forward and backward, kind by kind.

The five kinds, PyTorch's fused attention ("sdpa") and, where they are installed, the published maps of the entmax
library and the kernels of AdaSplash take turns on the same self-attention: time of a forward and backward pass, its
ratio to "sdpa", and the memory a pass needs at its peak (GPU only). Each length gets as many sentences as keep the
number of tokens. ``--causal`` masks the future, ``--padding`` the last eighth of each sentence's keys.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.backends import attend as attend_by_backend
from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask, key_padding_mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import cli

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def variants(options: argparse.Namespace, mask: AttentionMask | None) -> dict[str, Attend]:
    """What is compared, by name: queries, keys, values [batch, heads, length, width] to heads' outputs."""
    dimension = options.heads * options.width

    def our_own(kind: str) -> Attend:
        attention = MultiHeadAttention(
            dimension, options.heads, variant=kind, dropout=options.dropout, cross_attention=False
        )
        variant = ATTENTION_VARIANTS[kind]  # the projections are the same for all; the norm of ReLA is part of its cost
        attention.to(options.device)
        return lambda query, key, value: attention.output_norm(
            attend_by_backend(variant, query, key, value, mask, dropout=options.dropout).flatten(2)
        )

    def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = (
            None
            if mask is None or mask.causal
            else mask.as_bias(query.shape[2], query.shape[2], query.dtype, query.device)
        )
        heads = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=options.dropout, is_causal=options.causal
        )
        return heads.transpose(1, 2).flatten(2)

    found: dict[str, Attend] = {"sdpa": sdpa, **{kind: our_own(kind) for kind in options.attention}}
    if importlib.util.find_spec("entmax"):
        import entmax

        for name in ("sparsemax", "entmax15"):
            found[f"entmax {name}"] = _with_map(getattr(entmax, name), mask, options.dropout)
    if options.device == "cuda" and not options.dropout and mask is None and importlib.util.find_spec("adasplash"):
        from adasplash import adasplash_no_block_mask

        found["adasplash 1.5"] = lambda q, k, v: adasplash_no_block_mask(q, k, v, alpha=1.5, niter=10)
    return found


def _with_map(mapping: Callable[..., Tensor], mask: AttentionMask | None, dropout: float) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask.as_bias(scores.shape[2], scores.shape[3], scores.dtype, scores.device)
        weights = F.dropout(mapping(scores.float(), dim=-1).to(value.dtype), dropout)
        return (weights @ value).transpose(1, 2).flatten(2)

    return attend


def run_once(attend: Attend, given: list[Tensor], upstream: Tensor) -> tuple[float, int]:
    """Seconds and peak bytes of a forward and backward pass."""
    on_gpu = upstream.is_cuda
    before = 0
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    torch.autograd.grad(attend(*given).flatten(), given, upstream.flatten())
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() - before if on_gpu else 0


def measure(options: argparse.Namespace, length: int) -> list[dict[str, Any]]:
    """One row a variant, the rounds alternating. A variant that runs out of memory has none."""
    sentences = max(options.tokens // length, 1)
    shape = (sentences, length, 3, options.heads, options.width)
    packed = torch.randn(shape, device=options.device, dtype=getattr(torch, options.dtype))
    given = [part.transpose(1, 2).requires_grad_() for part in packed.unbind(2)]
    upstream = torch.randn_like(packed[:, :, 0])
    mask = None
    if options.causal:
        mask = CAUSAL_MASK
    elif options.padding:
        visible = torch.arange(length, device=options.device) < length - length // 8
        mask = key_padding_mask(visible.expand(sentences, length), torch.float32)
    candidates = variants(options, mask)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    peaks: dict[str, int] = {}
    for round_number in range(options.rounds + 2):  # two to warm up and compile
        for name, attend in list(candidates.items()):
            try:
                took, peaks[name] = run_once(attend, given, upstream)
            except torch.OutOfMemoryError:
                del candidates[name], seconds[name]
                continue
            if round_number >= 2:
                seconds[name].append(took)
    base = statistics.median(seconds["sdpa"])
    return [
        {
            "length": length,
            "sentences": sentences,
            "variant": name,
            "milliseconds": statistics.median(times) * 1e3,
            "fastest": min(times) * 1e3,
            "against_sdpa": statistics.median(times) / base,
            "peak_mebibytes": peaks[name] / 2**20,
        }
        for name, times in seconds.items()
    ]


def main() -> int:
    """Parse, measure, print."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lengths = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192] if on_gpu else [32, 64, 256]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths)
    parser.add_argument("--attention", nargs="+", default=list(ATTENTION_VARIANTS), choices=list(ATTENTION_VARIANTS))
    parser.add_argument("--tokens", type=int, default=16_384 if on_gpu else 2_048, help="tokens of a batch")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument(
        "--dtype", default="bfloat16" if on_gpu else "float32", choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--rounds", type=int, default=9 if on_gpu else 5)
    site = parser.add_mutually_exclusive_group()
    site.add_argument("--causal", action="store_true")
    site.add_argument("--padding", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(
        f"{name}, torch {torch.__version__}, {options.dtype}, {options.heads} heads of {options.width}, "
        f"dropout {options.dropout}{', causal' if options.causal else ', padded' if options.padding else ''}"
    )
    print(f"{'length':>6} {'sentences':>9}  {'variant':<18} {'ms':>9} {'fastest':>9} {'/ sdpa':>7} {'peak MiB':>9}")
    rows = []
    for length in options.lengths:
        for row in measure(options, length):
            rows.append(row)
            print(
                f"{row['length']:>6} {row['sentences']:>9}  {row['variant']:<18} {row['milliseconds']:>9.2f} "
                f"{row['fastest']:>9.2f} {row['against_sdpa']:>7.2f} {row['peak_mebibytes']:>9.1f}",
                flush=True,
            )
    if options.json:
        figures = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(
            json.dumps({"device_name": name, "torch": torch.__version__, **figures, "rows": rows}, indent=1) + "\n",
            encoding="utf-8",
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_attention", lambda _: main()))
