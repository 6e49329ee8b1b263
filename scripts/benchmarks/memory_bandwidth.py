"""What the steps of a decoder read from memory at least, and how fast a GPU could read it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from nmt_rela.models.incremental_decoder import IncrementalDecoder


class Reads(NamedTuple):
    """Bytes that the steps of a translation read at least, and bytes a second that the device reads or writes."""

    bytes: int
    rate: float


def reads_of(translate: Callable[[], object], device: torch.device) -> Reads | None:
    """The readings of all steps that ``translate`` makes on a CUDA device; None when it makes none of ours."""
    total, step = 0, IncrementalDecoder.step

    def counting_step(state: IncrementalDecoder, tokens: Tensor) -> Tensor:
        nonlocal total
        logits = step(state, tokens)
        total += step_reads(state)
        return logits

    with mock.patch.object(IncrementalDecoder, "step", counting_step):
        translate()
    return Reads(total, copy_rate(device)) if total else None


def step_reads(state: IncrementalDecoder) -> int:
    """Bytes that a step reads at least: the weights that it uses, and all keys and values."""
    model = state.model
    weights = [
        parameter
        for name, parameter in [*model.decoder.named_parameters(), *model.decoder_norm.named_parameters()]
        if "cross_attention.kv_proj" not in name  # the memory is projected once
    ]
    return sum(tensor.nbytes for tensor in (*weights, model.output_embedding)) + state.cache_nbytes


def copy_rate(device: torch.device) -> float:
    """Bytes a second that the device reads and writes in copying half a gibibyte, best of many."""
    source = torch.zeros(1 << 29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(20):
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * source.nbytes / best
