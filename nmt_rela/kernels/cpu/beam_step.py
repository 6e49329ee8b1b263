"""One step of beam search on the CPU in compiled code: `generation.beam_search` has the plain form and its rules."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_void_p

import torch
from torch import Tensor

from nmt_rela.kernels.availability import processor_of
from nmt_rela.kernels.cpu.native_library import native_library

_NUMBERS = ("sentences", "beams", "vocabulary", "beam_size", "n_best", "step", "early_stopping", "eos", "pad")
_TENSORS = (
    "logits", "suppressed", "forced", "max_lengths", "final_penalty", "scores", "finished_scores", "finished_indices",
    "totals", "beam_indices", "tokens", "token_log_probs", "continuing", "next_scores", "next_tokens", "parents",
    "done",
)  # fmt: skip


class _BeamStep(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in (*_NUMBERS, "num_suppressed")),
        ("penalty", c_float),
        *((name, c_void_p) for name in _TENSORS),
    )


def supports_native_beam_step(logits: Tensor) -> bool:
    """Whether ``native_beam_step`` takes these logits."""
    on_cpu = logits.device.type == "cpu" and processor_of(logits) == "cpu"
    return on_cpu and logits.dtype == torch.float32 and native_library() is not None


def native_beam_step(
    logits: Tensor,
    suppressed: Tensor,
    forced: Tensor,
    max_lengths: Tensor,
    final_penalty: Tensor,
    scores: Tensor,
    finished_scores: Tensor,
    finished_indices: Tensor,
    *,
    beam_size: int,
    n_best: int,
    step: int,
    early_stopping: bool,
    penalty: float,
    eos: int,
    pad: int,
) -> tuple[Tensor, ...]:
    """A step of ``beam_search`` from the logits [S, B, V], which are overwritten; the pools are updated in place.

    ``forced`` [S] are the tokens that a prefix determines, −1 where none does.

    Returns the candidates (totals, beam indices, tokens, log-probabilities of the tokens, each [S, 2B]), the positions
    of those that continue, their scores, tokens and beam indices, each [S, B], and which sentences are done [S].
    """
    library = native_library()
    assert library is not None
    sentences, beams, vocabulary = logits.shape

    def empty(columns: int, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.empty((sentences, columns), dtype=dtype, device="cpu")

    wide, real = 2 * beam_size, torch.float32
    found = (
        empty(wide, real), empty(wide), empty(wide), empty(wide, real), empty(beam_size), empty(beam_size, real),
        empty(beam_size), empty(beam_size), torch.empty(sentences, dtype=torch.bool, device="cpu"),
    )  # fmt: skip
    logits = logits.contiguous()
    given = logits, suppressed, forced, max_lengths, final_penalty, scores, finished_scores, finished_indices
    assert all(x.is_contiguous() for x in given)
    numbers = (sentences, beams, vocabulary, beam_size, n_best, step, early_stopping, eos, pad, len(suppressed))
    pointers = (x.data_ptr() for x in (*given, *found))
    library.beam_step(ctypes.byref(_BeamStep(*numbers, penalty, *pointers)))
    return found
