"""The decoders of a search, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nmt_rela.kernels.availability import processor_of
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.native_decoder import NativeDecoder
from nmt_rela.models.transformer import Transformer

Decoder = IncrementalDecoder | NativeDecoder


def _pytorch(model: Transformer, source: Tensor, num_beams: int, max_length: int) -> Decoder:
    return IncrementalDecoder(model, model.encode(source), num_beams=num_beams, max_length=max_length)


def _native(model: Transformer, source: Tensor, num_beams: int, max_length: int) -> Decoder:
    assert model.native is not None
    return NativeDecoder(model.native, source, max_length=max_length)


DECODERS: dict[str, Callable[[Transformer, Tensor, int, int], Decoder]] = {"pytorch": _pytorch, "native": _native}


def start_decoder(model: Transformer, source: Tensor, *, num_beams: int, max_length: int) -> Decoder:
    """Encode padded ``source`` [sentences, length] and start ``num_beams`` hypotheses per sentence.

    None will be longer than ``max_length``.
    """
    return DECODERS[choose_decoder(model)](model, source, num_beams, max_length)


def choose_decoder(model: Transformer) -> str:
    """A key of `DECODERS`. Compiled code knows no hooks, no autocast and no changes of the model."""
    if model.native is None or processor_of(model.output_embedding) != "cpu" or torch.is_autocast_enabled("cpu"):
        return "pytorch"
    is_current: bool = model.native.is_current(model)
    return "native" if is_current else "pytorch"
