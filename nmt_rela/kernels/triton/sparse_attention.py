"""ReLA, sparsemax and 1.5-entmax attention in Triton. The scores are never stored: memory is linear in the length.

With scores s = q kᵀ / √head_dim and x = s (s / 2 for 1.5-entmax), all three rest on one number per key,

    r = max(0, x − m − τ)          m the largest x of the row, τ its threshold; both are 0 for ReLA
    weight  w = r                  (r² for 1.5-entmax)
    slope   c = [r > 0]            (r for 1.5-entmax), with dw/ds = diag(c) − c cᵀ / Σ c; for ReLA diag(c)

One kernel serves all three forward, and two serve them backward: one iterates over keys for the gradient of the
queries, one over queries for the gradients of keys and values. The backward pass recomputes the scores from queries and
keys. sparsemax and 1.5-entmax store m and τ of each row; ReLA stores nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from nmt_rela.kernels.triton.dropout import draw_seed, dropout_scale, dropped_levels

_WEIGHT_FUNCTIONS = {"relu": 0, "sparsemax": 1, "entmax15": 2}
RELU, SPARSEMAX, ENTMAX15 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# Which keys are masked: none, the same for all queries of a sentence, or others for each query.
NO_BIAS, PADDING_BIAS, FULL_BIAS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# Newton's method ends when no row of the tile can lose more than this mass: 16 units in the last place of 1.
_TOLERANCE = tl.constexpr(16 * 2.0**-23)
_MAX_STEPS = tl.constexpr(100)

_FLOAT32_TILE = {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}

# A value of 1 or a multiple of 16 among these compiles no new kernel.
_DO_NOT_SPECIALIZE = ["seed", "bias_batch", "bias_row", "heads", "queries", "keys", "blocks", "dropped"]


def sparse_attention(
    weight_fn: str, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """weight_fn(q kᵀ / √head_dim) v with dropout on the weights: [batch, queries, heads, head_dim].

    ``weight_fn`` is relu, sparsemax or entmax15. ``query`` is [batch, heads, queries, head_dim], ``key`` and ``value``
    [batch, heads, keys, head_dim], of one dtype (float32, bfloat16, float16), with a head_dim of 16, 32, 64 or 128.
    ``bias`` [batch or 1, 1, queries or 1, keys] is negative where a key is masked and 0 elsewhere. With ``causal``,
    query i sees keys 0 … i. Dropout takes one seed from the CPU's generator. Sums are in float32.
    """
    with torch.cuda.device_of(query):
        output: Tensor = _SparseAttention.apply(weight_fn, query, key, value, bias, causal, dropout)
    return output


@triton.jit
def _load_rows(pointer, rows, stride, length, HEAD_DIM: tl.constexpr):
    """[rows, HEAD_DIM], with zeros beyond the length."""
    offsets = rows[:, None].to(tl.int64) * stride + tl.arange(0, HEAD_DIM)[None, :]
    return tl.load(pointer + offsets, mask=rows[:, None] < length, other=0.0)


@triton.jit
def _store_rows(pointer, rows, stride, length, values, HEAD_DIM: tl.constexpr):
    offsets = rows[:, None].to(tl.int64) * stride + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=rows[:, None] < length)


@triton.jit
def _dot(left, right):
    """left · rightᵀ, in true float32 for float32."""
    return tl.dot(left, tl.trans(right), input_precision="ieee")


@triton.jit
def _scores(
    left, right, rows, columns, Bias, bias_row, queries, keys, scale,
    WEIGHT_FN: tl.constexpr, CAUSAL: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """x of a tile, −∞ where a key is masked. Rows (queries) and columns (keys) may lie along either axis."""
    visible = columns < keys
    if CAUSAL:
        visible = visible & (columns <= rows)
    if BIAS == PADDING_BIAS:
        visible = visible & (tl.load(Bias + columns, mask=columns < keys, other=-1.0) >= 0.0)
    if BIAS == FULL_BIAS:
        inside = (rows < queries) & (columns < keys)
        visible = visible & (tl.load(Bias + rows.to(tl.int64) * bias_row + columns, mask=inside, other=-1.0) >= 0.0)
    return tl.where(visible, _dot(left, right) * (scale * 0.5 if WEIGHT_FN == ENTMAX15 else scale), float("-inf"))


@triton.jit
def _roots(x, row_max, threshold, WEIGHT_FN: tl.constexpr):
    """r. m and τ are subtracted one after the other, so that large scores lose no precision. NaN stays NaN."""
    return tl.maximum(x if WEIGHT_FN == RELU else x - row_max - threshold, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _weights(roots, WEIGHT_FN: tl.constexpr):
    return roots * roots if WEIGHT_FN == ENTMAX15 else roots


@triton.jit
def _dweights(roots, WEIGHT_FN: tl.constexpr):
    return roots if WEIGHT_FN == ENTMAX15 else (roots > 0.0).to(tl.float32)


@triton.jit
def _newton_step(threshold, mass, slope, WEIGHT_FN: tl.constexpr):
    """One Newton step towards Σ w = 1. Σ r and ‖r‖ are convex and decrease with τ: from the left no step overshoots."""
    step = (mass - tl.sqrt(mass) if WEIGHT_FN == ENTMAX15 else mass - 1.0) / slope
    return tl.where(mass > 1.0, threshold + step, threshold)


@triton.jit(do_not_specialize=_DO_NOT_SPECIALIZE)
def _forward_kernel(
    Q, K, V, Output, RowMax, Threshold, Bias, seed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, bias_batch, bias_row,
    heads, queries, keys, blocks, scale, dropped,
    WEIGHT_FN: tl.constexpr, CAUSAL: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, ONE_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head against all keys."""
    head_index, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    K += batch * k_batch + head * k_head
    V += batch * k_batch + head * k_head
    if BIAS != NO_BIAS:
        Bias += batch * bias_batch
    rows, columns = block * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    q = _load_rows(Q + batch * q_batch + head * q_head, rows, q_row, queries, HEAD_DIM)
    row_index = head_index.to(tl.int64) * queries + rows
    end = tl.minimum(keys, (block + 1) * BLOCK_M) if CAUSAL else keys

    row_max = tl.zeros([BLOCK_M], tl.float32)
    threshold = tl.zeros([BLOCK_M], tl.float32)
    if WEIGHT_FN != RELU:
        x = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        row_max += float("-inf")
        for start in range(0, end, BLOCK_N):
            k = _load_rows(K, start + columns, k_row, keys, HEAD_DIM)
            x = _scores(
                q, k, rows[:, None], start + columns[None, :],
                Bias, bias_row, queries, keys, scale, WEIGHT_FN, CAUSAL, BIAS,
            )  # fmt: skip
            row_max = tl.maximum(row_max, tl.max(x, axis=1))
        row_max = tl.where(row_max > float("-inf"), row_max, 0.0)  # a row that sees nothing
        threshold -= 1.0  # here the largest score alone has mass 1
        excess, steps = 1.0, 0
        while (excess > _TOLERANCE) & (steps < _MAX_STEPS):
            mass = tl.zeros([BLOCK_M], tl.float32)
            slope = tl.zeros([BLOCK_M], tl.float32)
            for start in range(0, end, BLOCK_N):
                if not ONE_TILE:
                    k = _load_rows(K, start + columns, k_row, keys, HEAD_DIM)
                    x = _scores(
                        q, k, rows[:, None], start + columns[None, :],
                        Bias, bias_row, queries, keys, scale, WEIGHT_FN, CAUSAL, BIAS,
                    )  # fmt: skip
                roots = _roots(x, row_max[:, None], threshold[:, None], WEIGHT_FN)
                mass += tl.sum(_weights(roots, WEIGHT_FN), axis=1)
                slope += tl.sum(_dweights(roots, WEIGHT_FN), axis=1)
            threshold = _newton_step(threshold, mass, slope, WEIGHT_FN)
            excess = tl.max(mass, axis=0) - 1.0
            steps += 1
        tl.store(RowMax + row_index, row_max, mask=rows < queries)
        tl.store(Threshold + row_index, threshold, mask=rows < queries)

    output = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(0, end, BLOCK_N):
        k = _load_rows(K, start + columns, k_row, keys, HEAD_DIM)
        v = _load_rows(V, start + columns, k_row, keys, HEAD_DIM)
        x = _scores(
            q, k, rows[:, None], start + columns[None, :],
            Bias, bias_row, queries, keys, scale, WEIGHT_FN, CAUSAL, BIAS,
        )  # fmt: skip
        weights = _weights(_roots(x, row_max[:, None], threshold[:, None], WEIGHT_FN), WEIGHT_FN)
        if DROPOUT:
            weights *= dropout_scale(seed, row_index[:, None], start + columns[None, :], dropped)
        output = tl.dot(weights.to(v.dtype), v, output, input_precision="ieee")
    _store_rows(Output + (batch * queries * heads + head) * HEAD_DIM, rows, heads * HEAD_DIM, queries, output, HEAD_DIM)


@triton.jit(do_not_specialize=_DO_NOT_SPECIALIZE)
def _query_gradient_kernel(
    Q, K, V, DO, RowMax, Threshold, Mean, QueryGradient, Bias, seed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, bias_batch, bias_row,
    heads, queries, keys, blocks, scale, dropped,
    WEIGHT_FN: tl.constexpr, CAUSAL: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, PARTS: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of queries, and each row's Σ c dw / Σ c, which the next kernel needs too."""
    head_index, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    K += batch * k_batch + head * k_head
    V += batch * k_batch + head * k_head
    if BIAS != NO_BIAS:
        Bias += batch * bias_batch
    rows, columns = block * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    own = (batch * queries * heads + head) * HEAD_DIM
    q = _load_rows(Q + batch * q_batch + head * q_head, rows, q_row, queries, HEAD_DIM)
    grad_output = _load_rows(DO + own, rows, heads * HEAD_DIM, queries, HEAD_DIM)
    row_index = head_index.to(tl.int64) * queries + rows
    end = tl.minimum(keys, (block + 1) * BLOCK_M) if CAUSAL else keys

    row_max = tl.zeros([BLOCK_M], tl.float32)
    threshold = tl.zeros([BLOCK_M], tl.float32)
    mean = tl.zeros([BLOCK_M], tl.float32)
    if WEIGHT_FN != RELU:
        row_max = tl.load(RowMax + row_index, mask=rows < queries, other=0.0)
        threshold = tl.load(Threshold + row_index, mask=rows < queries, other=0.0)
        total = tl.zeros([BLOCK_M], tl.float32)
        for start in range(0, end, BLOCK_N):
            k = _load_rows(K, start + columns, k_row, keys, HEAD_DIM)
            gradient = _dot(grad_output, _load_rows(V, start + columns, k_row, keys, HEAD_DIM))
            x = _scores(
                q, k, rows[:, None], start + columns[None, :],
                Bias, bias_row, queries, keys, scale, WEIGHT_FN, CAUSAL, BIAS,
            )  # fmt: skip
            if DROPOUT:
                gradient *= dropout_scale(seed, row_index[:, None], start + columns[None, :], dropped)
            slopes = _dweights(_roots(x, row_max[:, None], threshold[:, None], WEIGHT_FN), WEIGHT_FN)
            mean += tl.sum(slopes * gradient, axis=1)
            total += tl.sum(slopes, axis=1)
        mean = tl.where(total > 0.0, mean / total, 0.0)
        tl.store(Mean + row_index, mean, mask=rows < queries)

    query_gradient = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(0, end, BLOCK_N):
        k = _load_rows(K, start + columns, k_row, keys, HEAD_DIM)
        gradient = _dot(grad_output, _load_rows(V, start + columns, k_row, keys, HEAD_DIM))
        x = _scores(
            q, k, rows[:, None], start + columns[None, :],
            Bias, bias_row, queries, keys, scale, WEIGHT_FN, CAUSAL, BIAS,
        )  # fmt: skip
        if DROPOUT:
            gradient *= dropout_scale(seed, row_index[:, None], start + columns[None, :], dropped)
        slopes = _dweights(_roots(x, row_max[:, None], threshold[:, None], WEIGHT_FN), WEIGHT_FN)
        gradient = slopes * (gradient - mean[:, None])
        query_gradient = tl.dot(gradient.to(k.dtype), k, query_gradient, input_precision="ieee")
    own = (batch * queries * PARTS * heads + head) * HEAD_DIM
    _store_rows(QueryGradient + own, rows, PARTS * heads * HEAD_DIM, queries, query_gradient * scale, HEAD_DIM)


@triton.jit(do_not_specialize=_DO_NOT_SPECIALIZE)
def _key_value_gradient_kernel(
    Q, K, V, DO, RowMax, Threshold, Mean, KeyGradient, ValueGradient, Bias, seed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, bias_batch, bias_row,
    heads, queries, keys, blocks, scale, dropped,
    WEIGHT_FN: tl.constexpr, CAUSAL: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, PARTS: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of keys and values. Tiles are transposed: keys along rows, queries along columns."""
    head_index, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    Q += batch * q_batch + head * q_head
    if BIAS != NO_BIAS:
        Bias += batch * bias_batch
    DO += (batch * queries * heads + head) * HEAD_DIM
    row_index = head_index.to(tl.int64) * queries
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = _load_rows(K + batch * k_batch + head * k_head, columns, k_row, keys, HEAD_DIM)
    v = _load_rows(V + batch * k_batch + head * k_head, columns, k_row, keys, HEAD_DIM)
    key_gradient = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    value_gradient = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    row_max = tl.zeros([BLOCK_M], tl.float32)
    threshold = tl.zeros([BLOCK_M], tl.float32)
    mean = tl.zeros([BLOCK_M], tl.float32)
    # The first query that sees one of these keys has the position of the first of them.
    for start in range(block * BLOCK_N // BLOCK_M * BLOCK_M if CAUSAL else 0, queries, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = _load_rows(Q, rows, q_row, queries, HEAD_DIM)
        grad_output = _load_rows(DO, rows, heads * HEAD_DIM, queries, HEAD_DIM)
        if WEIGHT_FN != RELU:
            row_max = tl.load(RowMax + row_index + rows, mask=rows < queries, other=0.0)
            threshold = tl.load(Threshold + row_index + rows, mask=rows < queries, other=0.0)
            mean = tl.load(Mean + row_index + rows, mask=rows < queries, other=0.0)
        x = _scores(
            k, q, rows[None, :], columns[:, None], Bias, bias_row, queries, keys, scale, WEIGHT_FN, CAUSAL, BIAS
        )
        roots = _roots(x, row_max[None, :], threshold[None, :], WEIGHT_FN)
        weights = _weights(roots, WEIGHT_FN)
        gradient = _dot(v, grad_output)
        if DROPOUT:
            kept = dropout_scale(seed, row_index + rows[None, :], columns[:, None], dropped)
            weights *= kept
            gradient *= kept
        value_gradient = tl.dot(weights.to(grad_output.dtype), grad_output, value_gradient, input_precision="ieee")
        gradient = _dweights(roots, WEIGHT_FN) * (gradient - mean[None, :])
        key_gradient = tl.dot(gradient.to(q.dtype), q, key_gradient, input_precision="ieee")
    own = (batch * keys * PARTS * heads + head) * HEAD_DIM
    _store_rows(KeyGradient + own, columns, PARTS * heads * HEAD_DIM, keys, key_gradient * scale, HEAD_DIM)
    _store_rows(ValueGradient + own, columns, PARTS * heads * HEAD_DIM, keys, value_gradient, HEAD_DIM)


class _SparseAttention(Function):
    @staticmethod
    def forward(
        ctx: Any, weight_fn: str, query: Tensor, key: Tensor, value: Tensor,
        bias: Tensor | None, causal: bool, dropout: float,
    ) -> Tensor:  # fmt: skip
        (batch, heads, queries, head_dim), keys = query.shape, key.shape[2]
        assert not causal or queries == keys
        query = query if query.stride(3) == 1 else query.contiguous()
        if key.stride(3) != 1 or key.stride() != value.stride():
            key, value = key.contiguous(), value.contiguous()
        is_relu = _WEIGHT_FUNCTIONS[weight_fn] == 0
        bias_strides = (0, 0)
        if bias is not None:
            bias = bias if bias.stride(3) == 1 else bias.contiguous()
            bias_strides = (bias.stride(0) if bias.shape[0] > 1 else 0, bias.stride(2))
        dropped = dropped_levels(dropout)
        numbers = (*query.stride()[:3], *key.stride()[:3], *bias_strides, heads, queries, keys)
        constants = {
            "scale": head_dim**-0.5,
            "dropped": dropped,
            "WEIGHT_FN": _WEIGHT_FUNCTIONS[weight_fn],
            "CAUSAL": causal,
            "BIAS": 0 if bias is None else 1 if bias.shape[2] == 1 else 2,
            "DROPOUT": dropped > 0,
            "HEAD_DIM": head_dim,
        }
        seed = draw_seed() if dropped else 0
        output = query.new_empty(batch, queries, heads, head_dim)
        rows = None if is_relu else query.new_empty(2, batch, heads, queries, dtype=torch.float32)
        row_max, threshold = (None, None) if rows is None else rows.unbind()
        tiles = _row_tiles(query, keys, whole_rows=not is_relu)
        blocks = triton.cdiv(queries, tiles["BLOCK_M"])
        _forward_kernel[(batch * heads * blocks,)](
            query, key, value, output, row_max, threshold, bias, seed, *numbers, blocks,
            ONE_TILE=not is_relu and keys <= tiles["BLOCK_N"], **constants, **tiles,
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, rows, bias)
        ctx.numbers, ctx.constants, ctx.seed = numbers, constants, seed
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, rows, bias = ctx.saved_tensors
        (batch, heads, queries, head_dim), keys = query.shape, key.shape[2]
        grad_output = grad_output.contiguous()
        row_max, threshold = (None, None) if rows is None else rows.unbind()
        mean = None if rows is None else torch.empty_like(rows[0])
        inputs = (query, key, value, grad_output, row_max, threshold, mean)
        # Gradients of parts of one projection lie as the parts did, so that its gradient is one tensor without copies.
        is_self_attention = query.stride() == key.stride() and query.stride(2) == 3 * heads * head_dim
        parts = 3 if is_self_attention and queries == keys else 2
        packed = query.new_empty(batch, keys, parts, heads, head_dim).unbind(2)
        query_parts = parts if parts == 3 else 1
        query_gradient = packed[0] if parts == 3 else torch.empty_like(grad_output)
        key_gradient, value_gradient = packed[-2:]
        tiles = _row_tiles(query, keys, whole_rows=False)
        blocks = triton.cdiv(queries, tiles["BLOCK_M"])
        _query_gradient_kernel[(batch * heads * blocks,)](
            *inputs, query_gradient, bias, ctx.seed, *ctx.numbers, blocks, PARTS=query_parts, **ctx.constants, **tiles
        )
        tiles = _column_tiles(query)
        blocks = triton.cdiv(keys, tiles["BLOCK_N"])
        _key_value_gradient_kernel[(batch * heads * blocks,)](
            *inputs, key_gradient, value_gradient, bias, ctx.seed, *ctx.numbers, blocks,
            PARTS=parts, **ctx.constants, **tiles,
        )  # fmt: skip
        gradients = (x.transpose(1, 2) for x in (query_gradient, key_gradient, value_gradient))
        return None, *gradients, None, None, None


def _row_tiles(query: Tensor, keys: int, *, whole_rows: bool) -> dict[str, int]:
    """The tile of a kernel that iterates over keys. Every tile fits the shared memory of small GPUs (99 KiB).

    ``whole_rows`` prefers a tile that holds all keys: thresholds are then found in registers.
    """
    length, head_dim = query.shape[2], query.shape[3]
    if query.dtype == torch.float32:
        return _FLOAT32_TILE
    columns = 128 if whole_rows and keys > 64 and head_dim <= 64 else 64
    rows = 16 if length <= 16 else 128 if length > 64 and columns == 64 and head_dim <= 64 else 64
    return {
        "BLOCK_M": rows,
        "BLOCK_N": columns,
        "num_warps": 8 if rows * columns > 4096 or head_dim > 64 else 4,
        "num_stages": 2 if columns > 64 or head_dim > 64 else 3,
    }


def _column_tiles(query: Tensor) -> dict[str, int]:
    """The tile of the kernel that iterates over queries."""
    if query.dtype == torch.float32:
        return _FLOAT32_TILE
    rows = 16 if query.shape[2] <= 16 else 64
    return {"BLOCK_M": rows, "BLOCK_N": 64, "num_warps": 8 if query.shape[3] > 64 else 4, "num_stages": 2}
