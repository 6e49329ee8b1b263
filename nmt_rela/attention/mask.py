"""Attention masks: which keys a query may attend to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionMask:
    """An additive mask, made once per batch and shared by every layer of a site.

    ``bias`` is 0 where a key is visible and the dtype's lowest number elsewhere. It is added to the scores, and every
    weight function then gives a masked key weight exactly 0. ``fully_masked_rows`` is true for queries that see no key;
    it keeps their weights 0 for the functions whose rows sum to 1. It is None when no row is known to be fully masked.

    With ``causal``, query i sees keys 0 … i. No bias is stored then: kernels need none, and it would grow with the
    square of the length.
    """

    bias: Tensor | None  # [batch or 1, 1, queries or 1, keys]
    fully_masked_rows: Tensor | None  # [batch or 1, 1, queries or 1, 1]
    causal: bool = False
    #: `as_bias` by dtype and number of queries: every layer asks for the same.
    _converted: dict[tuple[torch.dtype, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def as_bias(self, queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The bias to add to scores [batch, heads, queries, keys] of a dtype, broadcastable to their shape."""
        if self.bias is None:
            return _causal_bias(keys, dtype, device)
        if self.bias.dtype == dtype:
            return self.bias
        if (dtype, queries) in self._converted:
            return self._converted[dtype, queries]
        # The lowest number of a wider dtype would become −∞, and a row of −∞ becomes NaN.
        lowest = max(torch.finfo(each).min for each in (self.bias.dtype, dtype))
        bias = self.bias.clamp(min=lowest)
        if device.type == "cpu":
            # Half-precision arithmetic on a CPU is slow when one operand is broadcast over short rows.
            bias = bias.expand(-1, -1, queries, -1)
        self._converted[dtype, queries] = bias = bias.to(dtype)
        return bias

    def index_select(self, sentences: Tensor) -> AttentionMask:
        """The mask of some sentences of the batch."""
        if self.bias is None:
            return self
        rows = self.fully_masked_rows
        return AttentionMask(self.bias[sentences], None if rows is None else rows[sentences])


#: The mask of a decoder over whole targets. They are padded on the right, so no valid query sees a padded key.
CAUSAL_MASK = AttentionMask(None, None, causal=True)


def attention_mask(visible: Tensor, dtype: torch.dtype, *, every_row_sees_a_key: bool = False) -> AttentionMask:
    """The mask of a boolean tensor [batch or 1, 1, queries or 1, keys], true where a key is visible.

    A caller who knows it says that ``every_row_sees_a_key``: looking at the numbers would wait for a GPU.
    """
    if every_row_sees_a_key:
        return AttentionMask(_bias(visible, dtype), None)
    fully_masked = ~visible.any(dim=-1, keepdim=True)
    # Checking the values on a GPU would require a synchronization.
    none_is = visible.device.type == "cpu" and not bool(fully_masked.any())
    return AttentionMask(_bias(visible, dtype), None if none_is else fully_masked)


def key_padding_mask(valid: Tensor, dtype: torch.dtype, *, every_row_sees_a_key: bool = False) -> AttentionMask:
    """The mask of valid keys [batch, keys]: every query of a sentence sees the valid keys."""
    return attention_mask(valid[:, None, None, :], dtype, every_row_sees_a_key=every_row_sees_a_key)


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensor serves training too, whichever mode asks for it first
def _causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _bias(torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None], dtype)
