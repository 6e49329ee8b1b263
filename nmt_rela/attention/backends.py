"""How attention and the norm of ReLA are computed: the tables of backends, and the choice among them.

The reference reads like the equations. The output and the gradients of every other backend differ from float64 by at
most twice as much as those of the reference in the same dtype. On a GPU, softmax runs PyTorch's fused attention, the
other variants and the norm run Triton kernels. On a CPU, training ReLA reads the scores fewer times, and with few
queries (decoding) q kᵀ is computed in the transposed order, which is faster.
PyTorch's fused attention is slower than the reference on a CPU at the lengths of sentences (bench_attention).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention import functional
from nmt_rela.attention.mask import AttentionMask
from nmt_rela.attention.variants import AttentionVariant
from nmt_rela.kernels.availability import disabled_reason, processor_of, triton_is_available_for
from nmt_rela.kernels.cpu.attention_scores import matmul_few_queries
from nmt_rela.kernels.cpu.dropout import dropout
from nmt_rela.kernels.cpu.gated_rms_norm import gated_rms_norm_cpu
from nmt_rela.kernels.cpu.rela_attention import rela_attention_cpu
from nmt_rela.kernels.cpu.row_padding import on_whole_vectors

#: Head widths that the Triton kernels are compiled for.
TRITON_HEAD_DIMS = (16, 32, 64, 128)


class AttentionBackend(Protocol):
    """z = dropout(weights) v, [batch, queries, heads, head_dim].

    ``query`` is [batch, heads, queries, head_dim], ``key`` and ``value`` [batch, heads, keys, head_dim]; ``dropout`` is
    the probability, 0 at evaluation.
    """

    def __call__(
        self,
        variant: AttentionVariant,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: AttentionMask | None,
        *,
        dropout: float,
    ) -> Tensor: ...


class NormBackend(Protocol):
    """`functional.gated_rms_norm`: [..., width] → [..., width]."""

    def __call__(self, z: Tensor, gate: Tensor | None, *, epsilon: float) -> Tensor: ...


def attention_scores(query: Tensor, key: Tensor, mask: AttentionMask | None) -> Tensor:
    """q kᵀ / √head_dim plus the mask's bias: [batch, heads, queries, keys]."""
    return _scale_and_mask(torch.matmul(query, key.transpose(2, 3)), query.shape[3], mask)


def attention_weights(variant: AttentionVariant, scores: Tensor, mask: AttentionMask | None) -> Tensor:
    """Weights of masked scores, [batch, heads, queries, keys]; fully masked rows are 0."""
    return _zero_fully_masked_rows(variant.weight_fn(scores), variant, mask)


def weighted_values(weights: Tensor, value: Tensor, *, dropout_p: float) -> Tensor:
    """dropout(weights) v: [batch, queries, heads, head_dim]."""
    return torch.matmul(dropout(weights, dropout_p, training=dropout_p > 0.0), value).transpose(1, 2)


def _reference(
    variant: AttentionVariant, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None, *, dropout: float
) -> Tensor:
    weights = attention_weights(variant, attention_scores(query, key, mask), mask)
    return weighted_values(weights, value, dropout_p=dropout)


def _cpu(
    variant: AttentionVariant, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None, *, dropout: float
) -> Tensor:
    if variant.weight_fn is functional.relu and torch.is_grad_enabled():
        bias = None if mask is None else mask.as_bias(query.shape[2], key.shape[2], query.dtype, query.device)
        return rela_attention_cpu(query, key, value, bias, dropout=dropout)
    scores = _scale_and_mask(matmul_few_queries(query, key), query.shape[3], mask)
    if variant.weight_fn in (functional.sparsemax, functional.entmax15):
        weights = _zero_fully_masked_rows(on_whole_vectors(variant.weight_fn, scores), variant, mask)
    else:
        weights = attention_weights(variant, scores, mask)
    return weighted_values(weights, value, dropout_p=dropout)


def _sdpa(
    variant: AttentionVariant, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None, *, dropout: float
) -> Tensor:
    # cuDNN's attention builds a plan for every new shape, in up to a second, and some versions round dropout to 1/16.
    if torch.backends.cuda.cudnn_sdp_enabled():
        torch.backends.cuda.enable_cudnn_sdp(False)
    is_causal = mask is not None and mask.causal
    bias = None
    if mask is not None and mask.bias is not None:
        bias = mask.as_bias(query.shape[2], key.shape[2], query.dtype, query.device)
    z = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=is_causal)
    # A fully masked row gave all its keys the same weight.
    return _zero_fully_masked_rows(z, variant, mask).transpose(1, 2)


def _triton(
    variant: AttentionVariant, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None, *, dropout: float
) -> Tensor:
    from nmt_rela.kernels.triton.sparse_attention import sparse_attention

    bias, causal = (None, False) if mask is None else (mask.bias, mask.causal)
    name = variant.weight_fn.__name__
    return sparse_attention(name, query, key, value, bias=bias, causal=causal, dropout=dropout)


def _triton_norm(z: Tensor, gate: Tensor | None, *, epsilon: float) -> Tensor:
    from nmt_rela.kernels.triton.gated_rms_norm import gated_rms_norm_triton

    return gated_rms_norm_triton(z, gate, epsilon=epsilon)


ATTENTION_BACKENDS: dict[str, AttentionBackend] = {
    "reference": _reference,
    "cpu": _cpu,
    "sdpa": _sdpa,
    "triton": _triton,
}
NORM_BACKENDS: dict[str, NormBackend] = {
    "reference": functional.gated_rms_norm,
    "cpu": gated_rms_norm_cpu,
    "triton": _triton_norm,
}


def attend(
    variant: AttentionVariant,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask | None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """z = dropout(weights) v by the backend that fits: [batch, queries, heads, head_dim]."""
    backend = ATTENTION_BACKENDS[choose_backend(variant, query, key)]
    return backend(variant, query, key, value, mask, dropout=dropout)


def choose_backend(variant: AttentionVariant, query: Tensor, key: Tensor) -> str:
    """The backend for a call, by device, dtype and shape: a key of `ATTENTION_BACKENDS`."""
    processor = processor_of(query)
    if processor == "gpu":
        if variant.weight_fn is functional.softmax:
            return "sdpa" if disabled_reason("sdpa", query.device) is None else "reference"
        is_empty = 0 in (*query.shape, *key.shape)
        if triton_is_available_for(query) and query.shape[3] in TRITON_HEAD_DIMS and not is_empty:
            return "triton"
    return "cpu" if processor == "cpu" else "reference"


def choose_norm_backend(z: Tensor) -> str:
    """The backend of the norm of ReLA for a call: a key of `NORM_BACKENDS`."""
    processor = processor_of(z)
    if processor == "gpu" and triton_is_available_for(z):
        return "triton"
    return "cpu" if processor == "cpu" else "reference"


def _scale_and_mask(scores: Tensor, head_dim: int, mask: AttentionMask | None) -> Tensor:
    scale = head_dim**-0.5
    if mask is None:
        return scores * scale
    if scores.dtype in (torch.bfloat16, torch.float16):  # on a CPU, add rounds alpha to the dtype of its tensors
        scores, scale = scores * scale, 1.0
    # One pass for both. Scaling the queries instead would pay only beyond about 256 keys.
    return torch.add(mask.as_bias(scores.shape[2], scores.shape[3], scores.dtype, scores.device), scores, alpha=scale)


def _zero_fully_masked_rows(rows: Tensor, variant: AttentionVariant, mask: AttentionMask | None) -> Tensor:
    if mask is None or mask.fully_masked_rows is None or not variant.sums_to_one:
        return rows
    return rows.masked_fill(mask.fully_masked_rows, 0.0)
