"""The memory that decoder steps must read at least, and the rate at which a GPU could read it."""

from __future__ import annotations

import torch
from harness import seconds_of
from torch import Tensor

from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.transformer import Transformer


class CountingDecoder:
    """A decoder that counts the bytes that its steps read at least: the weights they use, and all keys and values."""

    def __init__(self, model: Transformer, decoder: IncrementalDecoder) -> None:
        self._decoder = decoder
        self._weights = weight_nbytes(model)
        self.bytes_read = 0

    def step(self, tokens: Tensor) -> Tensor:
        logits = self._decoder.step(tokens)
        self.bytes_read += self._weights + self._decoder.cache_nbytes
        return logits

    def reorder(self, beam_indices: Tensor) -> None:
        self._decoder.reorder(beam_indices)

    def select_sentences(self, indices: Tensor) -> None:
        self._decoder.select_sentences(indices)


def weight_nbytes(model: Transformer) -> int:
    """Bytes of the weights that a decoder step uses. The encoder output is projected once, before the steps."""
    norm = () if model.decoder_norm is None else model.decoder_norm.named_parameters()
    parameters = [*model.decoder.named_parameters(), *norm]
    used = [parameter for name, parameter in parameters if "cross_attention.kv_proj" not in name]
    return sum(tensor.nbytes for tensor in (*used, model.output_embedding))


def copy_rate(device: torch.device) -> float:
    """Bytes per second that the device reads and writes when it copies a block, best of 20 rounds of ten.

    A block is 2 GiB on a GPU, far more than its cache, and 256 MiB on a CPU.
    """
    source = torch.zeros(1 << (31 if device.type == "cuda" else 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), device, calls=10) for _ in range(20))
