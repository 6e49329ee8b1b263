"""Errors that name the setting which is too large for the memory of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nmt_rela.data.data_loader import Batch
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError, first_line


@contextmanager
def memory_errors(describe: Callable[[], str]) -> Iterator[None]:
    """Turn an OutOfMemoryError into a ConfigError with the description."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"{describe()} ({first_line(error)})") from error


def batch_too_large(batch: Batch, max_batch_tokens: int, device: torch.device) -> str:
    """The message for the forward and backward pass of a micro-batch."""
    sentences, length = batch.source.shape
    return (
        f"training.max_batch_tokens: found {max_batch_tokens}, too many for the memory of {device}: a micro-batch of "
        f"{sentences} sentences, {length} source and {batch.target.shape[1]} target tokens long, does not fit; the "
        f"same command with training.max_batch_tokens={max(max_batch_tokens // 2, 1)} continues the run"
    )


def model_too_large(model: Transformer, device: torch.device) -> str:
    """The message for the optimizer's step."""
    return (
        f"model: {sum(parameter.numel() for parameter in model.parameters()):,} parameters, their gradients and the "
        f"optimizer's state do not fit the memory of {device}; accepted: a smaller model, by model.d_model, "
        "model.ffn_dim, the layers or data.vocabulary_size"
    )
