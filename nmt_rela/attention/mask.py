"""Which keys a query may see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mask:
    """Visibility of keys, made once a batch and shared by every layer of a site.

    ``bias`` is 0 where a key may be seen and the dtype's lowest number where it may not: it is added to the scores,
    whence every map gives such a key weight exactly 0. ``dead`` marks rows that see no key at all and
    is None when there are none, which is all that training ever meets; it keeps their weights 0 for the maps whose
    rows must sum to 1.
    """

    bias: Tensor  # [batch or 1, 1, queries or 1, keys]
    dead: Tensor | None  # [batch or 1, 1, queries or 1, 1]

    def bias_as(self, dtype: torch.dtype) -> Tensor:
        """The bias for scores of a dtype. A wider dtype's lowest number would become −∞, and rows of nothing else
        NaN.
        """
        if self.bias.dtype == dtype:
            return self.bias
        return self.bias.clamp(min=torch.finfo(dtype).min).to(dtype)

    def select(self, sentences: Tensor) -> Mask:
        """The mask of some sentences of the batch."""
        return Mask(self.bias[sentences], None if self.dead is None else self.dead[sentences])


def mask_from(valid: Tensor, dtype: torch.dtype) -> Mask:
    """The mask of a boolean tensor, true where a key may be seen: [batch or 1, 1, queries or 1, keys]."""
    bias = torch.zeros_like(valid, dtype=dtype).masked_fill_(~valid, torch.finfo(dtype).min)
    dead = ~valid.any(dim=-1, keepdim=True)
    return Mask(bias, dead if bool(dead.any()) else None)


def padding_mask(valid: Tensor, dtype: torch.dtype) -> Mask:
    """The mask of key validity [batch, keys]: every query of a sentence sees its valid keys."""
    return mask_from(valid[:, None, None, :], dtype)


@lru_cache(maxsize=64)
def causal_mask(length: int, dtype: torch.dtype, device: torch.device) -> Mask:
    """Query i sees keys 0 … i.

    Targets are padded on the right, so no valid query sees a padded key: this is all the mask a decoder needs.
    """
    valid = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return mask_from(valid[None, None], dtype)
