"""Attention alone: scores, weights, dropout and the weighted sum of values, forward and backward.

The five variants, PyTorch's fused attention ("sdpa") and, if they are installed, the published functions of the entmax
library and the kernels of AdaSplash run interleaved on the same self-attention. The table has the time of a forward and
backward pass, its ratio to "sdpa", and the peak memory of a pass (GPU only). The number of sentences per length keeps
the number of tokens constant. On a GPU, ten passes in a queue are timed by the clock of the GPU. ``--causal`` masks the
future, ``--padding`` the last eighth of each sentence's keys.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import describe, environment, interleave, make_parser, print_row, seconds_of, write_document
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.backends import attend as attend_by_backend
from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask, key_padding_mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import cli

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def subjects_of(options: argparse.Namespace, mask: AttentionMask | None) -> dict[str, Attend]:
    """The subjects by name: queries, keys, values [batch, heads, length, head_dim] → [batch, length, embed_dim]."""

    def our_own(name: str) -> Attend:
        attention = MultiHeadAttention(
            options.heads * options.width, options.heads, variant=name, dropout=options.dropout, cross_attention=False
        )
        variant = ATTENTION_VARIANTS[name]  # the projections are the same for all; the norm of ReLA is part of its cost
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

    found: dict[str, Attend] = {"sdpa": sdpa, **{name: our_own(name) for name in options.attention}}
    if importlib.util.find_spec("entmax"):
        import entmax

        for name in ("sparsemax", "entmax15"):
            found[f"entmax {name}"] = _with_weight_function(getattr(entmax, name), mask, options.dropout)
    if options.device == "cuda" and not options.dropout and mask is None and importlib.util.find_spec("adasplash"):
        from adasplash import adasplash_no_block_mask

        found["adasplash 1.5"] = lambda q, k, v: adasplash_no_block_mask(q, k, v, alpha=1.5, niter=10)
    return found


def _with_weight_function(function: Callable[..., Tensor], mask: AttentionMask | None, dropout: float) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask.as_bias(scores.shape[2], scores.shape[3], scores.dtype, scores.device)
        weights = F.dropout(function(scores.float(), dim=-1).to(value.dtype), dropout)
        return (weights @ value).transpose(1, 2).flatten(2)

    return attend


def run_once(attend: Attend, inputs: list[Tensor], upstream: Tensor) -> tuple[float, int] | None:
    """Seconds and peak bytes of a forward and backward pass; None if memory does not suffice."""
    on_gpu = upstream.is_cuda
    before = 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

    def both_passes() -> None:
        torch.autograd.grad(attend(*inputs).flatten(), inputs, upstream.flatten())

    try:
        seconds = seconds_of(both_passes, upstream.device, calls=10 if on_gpu else 1)
    except torch.OutOfMemoryError:
        return None
    return seconds, torch.cuda.max_memory_allocated() - before if on_gpu else 0


def measure(options: argparse.Namespace, length: int) -> list[dict[str, Any]]:
    """One row per subject that did not run out of memory."""
    sentences = max(options.tokens // length, 1)
    shape = (sentences, length, 3, options.heads, options.width)
    packed = torch.randn(shape, device=options.device, dtype=getattr(torch, options.dtype))
    inputs = [part.transpose(1, 2).requires_grad_() for part in packed.unbind(2)]
    upstream = torch.randn_like(packed[:, :, 0])
    mask = None
    if options.causal:
        mask = CAUSAL_MASK
    elif options.padding:
        visible = torch.arange(length, device=options.device) < length - length // 8
        mask = key_padding_mask(visible.expand(sentences, length), torch.float32)
    subjects = {
        name: lambda attend=attend: run_once(attend, inputs, upstream)
        for name, attend in subjects_of(options, mask).items()
    }
    results = interleave(subjects, options.rounds, warm_up=2)  # the first rounds compile
    complete = {
        name: [result for result in found if result is not None] for name, found in results.items() if None not in found
    }
    base = statistics.median(seconds for seconds, _ in complete["sdpa"])
    return [
        {
            "length": length,
            "sentences": sentences,
            "variant": name,
            "milliseconds": statistics.median(seconds for seconds, _ in found) * 1e3,
            "fastest": min(found)[0] * 1e3,
            "against_sdpa": statistics.median(seconds for seconds, _ in found) / base,
            "peak_mebibytes": found[-1][1] / 2**20,
        }
        for name, found in complete.items()
    ]


def main() -> int:
    """Parse, measure, print."""
    on_gpu = torch.cuda.is_available()
    parser = make_parser(__doc__, rounds=9 if on_gpu else 5)
    lengths = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192] if on_gpu else [32, 64, 256]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths)
    parser.add_argument("--attention", nargs="+", default=list(ATTENTION_VARIANTS), choices=list(ATTENTION_VARIANTS))
    parser.add_argument("--tokens", type=int, default=16_384 if on_gpu else 2_048, help="tokens per batch")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="width per head")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument(
        "--dtype", default="bfloat16" if on_gpu else "float32", choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=["cuda", "cpu"])
    site = parser.add_mutually_exclusive_group()
    site.add_argument("--causal", action="store_true")
    site.add_argument("--padding", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # as ours
    document = environment(torch.device(options.device))
    print(
        f"{describe(document)}, {options.dtype}, {options.heads} heads of {options.width}, "
        f"dropout {options.dropout}{', causal' if options.causal else ', padded' if options.padding else ''}"
    )
    widths = (20, 8, 11, 10, 10, 8, 10)
    print_row(["variant", "length", "sentences", "ms", "fastest", "/ sdpa", "peak MiB"], widths)
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    rows = []
    for length in options.lengths:
        for row in measure(options, length):
            rows.append(row)
            times = [f"{row[name]:.2f}" for name in ("milliseconds", "fastest", "against_sdpa")]
            cells = [row["variant"], length, row["sentences"], *times, f"{row['peak_mebibytes']:.1f}"]
            print_row(cells, widths)
        write_document(options.json, {**document, "settings": settings, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_attention", lambda _: main()))
