"""The one place where attention chooses between its readable reference and a fast path.

Fast paths return no weights. On GPUs softmax goes through PyTorch's fused attention, the other kinds and the norm of
ReLA through kernels in Triton. On CPUs ReLA saves passes over its scores and their gradients in training; without
gradients the reference has no more of them. PyTorch's fused attention is slower there than the reference at the lengths
of sentences (``scripts/benchmarks/bench_attention.py``).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.mask import Mask
from nmt_rela.kernels.cpu.rela_attention import relu_attention_cpu

#: Devices that have fused attention; Triton's interpreter lets tests add "cpu".
FUSED_DEVICE_TYPES = {"cuda"}

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_KERNEL_WIDTHS = (16, 32, 64, 128)


def fused_backend(
    kind: str, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, *, dropout: float
) -> Tensor | None:
    """The heads' outputs [batch, queries, heads, width], or None where only the reference will do.

    ``query`` is [batch, heads, queries, width], ``key`` and ``value`` [batch, heads, keys, width].
    """
    if query.device.type not in FUSED_DEVICE_TYPES:
        if query.device.type == "cpu" and kind in ("rela-i", "rela-g") and torch.is_grad_enabled():
            return relu_attention_cpu(query, key, value, mask, dropout=dropout)
        return None
    if kind == "softmax":
        return _softmax_heads(query, key, value, mask, dropout=dropout)
    if not triton_is_available_for(query) or query.shape[3] not in _KERNEL_WIDTHS or 0 in (*query.shape, *key.shape):
        return None
    from nmt_rela.kernels.triton.sparse_attention import fused_attention

    bias, causal = (None, False) if mask is None else (mask.bias, mask.causal)
    return fused_attention(kind, query, key, value, bias=bias, causal=causal, dropout=dropout)


def triton_is_available_for(x: Tensor) -> bool:
    """Whether Triton's kernels can be used on a tensor."""
    return x.device.type in FUSED_DEVICE_TYPES and x.dtype in _KERNEL_DTYPES and _has_triton()


def _softmax_heads(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, *, dropout: float) -> Tensor:
    is_causal = mask is not None and mask.causal
    bias = None if mask is None or mask.bias is None else mask.bias_for(query)
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=is_causal)
    if mask is not None and mask.dead is not None:
        heads = heads.masked_fill(mask.dead, 0.0)  # such a row has given all its keys the same weight
    return heads.transpose(1, 2)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
