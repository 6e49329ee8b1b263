"""The best candidates of a beam-search step in Triton, which reads the logits once and writes nothing of their size.

Shapes: S sentences, B beams, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Tokens per program of the first kernel.
_BLOCK = 4096
#: Limits: each candidate costs a pass over the tile of a program, which must fit its registers.
_MAX_COUNT, _MAX_TILE = 32, 4096
#: Instead of a token: there is none left. It is larger than every index.
_NONE = tl.constexpr(2**31 - 1)


def supports_fused_candidates(logits: Tensor, count: int) -> bool:
    """Whether ``fused_candidates`` takes logits [S, B, V]."""
    return count <= _MAX_COUNT and math.prod(_tile(logits, count)) <= _MAX_TILE


def _tile(logits: Tensor, count: int) -> tuple[int, int]:
    """Beams and candidates of a sentence that the second kernel compares."""
    candidates = triton.cdiv(logits.shape[2], _BLOCK) * count
    return triton.next_power_of_2(logits.shape[1]), triton.next_power_of_2(candidates)


def fused_candidates(
    scores: Tensor, logits: Tensor, suppressed: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``count`` best continuations of each sentence, as ``beam_search.top_candidates`` has them.

    ``scores`` is [S, B], ``logits`` [S, B, V] in float32, bfloat16 or float16, ``suppressed`` the tokens that may not
    come. Among equals the smaller flat index, beam · V + token, comes first. What is missing has −∞ and token 0. A
    total that is not a number becomes +∞, so that it is found.
    """
    sentences, beams, vocabulary = logits.shape
    blocks, tile = triton.cdiv(vocabulary, _BLOCK), _tile(logits, count)
    values, normalizers = (logits.new_empty(sentences, beams, blocks, n, dtype=torch.float32) for n in (count, 1))
    value_tokens = torch.empty_like(values, dtype=torch.int32)
    totals, log_probs = logits.new_empty(2, sentences, count, dtype=torch.float32).unbind()
    beam_indices, tokens = logits.new_empty(2, sentences, count, dtype=torch.long).unbind()
    with torch.cuda.device_of(logits):
        _block_kernel[(sentences * beams, blocks)](
            logits.contiguous(), suppressed, values, value_tokens, normalizers, vocabulary, len(suppressed), count,
            BLOCK=min(triton.next_power_of_2(vocabulary), _BLOCK), num_warps=8,
        )  # fmt: skip
        _sentence_kernel[(sentences,)](
            scores.contiguous(), values, value_tokens, normalizers, totals, beam_indices, tokens, log_probs,
            vocabulary, beams, blocks, count, BEAMS=tile[0], WIDTH=tile[1], BLOCKS=triton.next_power_of_2(blocks),
            num_warps=min(8, max(1, math.prod(tile) // 256)),
        )  # fmt: skip
    return totals, beam_indices, tokens, log_probs


@triton.jit(do_not_specialize=["num_suppressed", "count"])
def _block_kernel(
    Logits, Suppressed, Values, Tokens, Normalizers, vocabulary, num_suppressed, count, BLOCK: tl.constexpr
):
    """One block of tokens of one hypothesis: the logarithm of its summed powers, and its best logits in order."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < vocabulary
    logits = tl.load(Logits + row * vocabulary + tokens, mask=inside, other=float("-inf")).to(tl.float32)
    maximum = tl.max(logits, axis=0)
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)
    output = row * tl.num_programs(1) + block
    tl.store(Normalizers + output, maximum + tl.log(tl.sum(tl.exp(logits - maximum), axis=0)))
    tokens = tl.where(inside, tokens, _NONE)
    for i in range(num_suppressed):
        logits = tl.where(tokens == tl.load(Suppressed + i), float("-inf"), logits)
    for rank in range(count):
        best = tl.max(logits, axis=0)
        token = tl.min(tl.where(logits == best, tokens, _NONE), axis=0)
        tl.store(Values + output * count + rank, best)
        tl.store(Tokens + output * count + rank, token)
        logits = tl.where(tokens == token, float("-inf"), logits)
        tokens = tl.where(tokens == token, _NONE, tokens)


@triton.jit(do_not_specialize=["beams", "blocks", "count"])
def _sentence_kernel(
    Scores, Values, ValueTokens, Normalizers, Totals, Beams, Tokens, LogProbs, vocabulary, beams, blocks, count,
    BEAMS: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One sentence: the best of the candidates of all its blocks."""
    sentence = tl.program_id(0).to(tl.int64)
    beam, block, candidate = tl.arange(0, BEAMS)[:, None], tl.arange(0, BLOCKS)[None, :], tl.arange(0, WIDTH)[None, :]
    row = sentence * beams + beam
    is_block = (beam < beams) & (block < blocks)
    parts = tl.load(Normalizers + row * blocks + block, mask=is_block, other=float("-inf"))
    maximum = tl.max(parts, axis=1)[:, None]
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)
    normalizer = maximum + tl.log(tl.sum(tl.exp(parts - maximum), axis=1)[:, None])
    inside = (beam < beams) & (candidate < blocks * count)
    offsets = row * blocks * count + candidate
    log_probs = tl.load(Values + offsets, mask=inside, other=float("-inf")) - normalizer
    totals = log_probs + tl.load(Scores + row, mask=beam < beams, other=0.0)
    totals = tl.where(totals == totals, totals, float("inf"))
    tokens = tl.load(ValueTokens + offsets, mask=inside, other=_NONE)
    flat_indices = tl.where(tokens == _NONE, _NONE, beam * vocabulary + tokens)
    totals = tl.where(inside, totals, float("-inf"))
    for rank in range(count):
        best = tl.max(tl.max(totals, axis=1), axis=0)
        chosen = tl.min(tl.min(tl.where(totals == best, flat_indices, _NONE), axis=1), axis=0)
        is_chosen = flat_indices == chosen
        log_prob = tl.sum(tl.sum(tl.where(is_chosen, log_probs, 0.0), axis=1), axis=0)
        exists = chosen < _NONE
        output = sentence * count + rank
        tl.store(Totals + output, best)
        tl.store(Beams + output, tl.where(exists, chosen // vocabulary, 0))
        tl.store(Tokens + output, tl.where(exists, chosen % vocabulary, 0))
        tl.store(LogProbs + output, tl.where(exists, log_prob, float("-inf")))
        totals = tl.where(is_chosen, float("-inf"), totals)
        flat_indices = tl.where(is_chosen, _NONE, flat_indices)
