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
    whence every map gives such a key weight exactly 0. ``dead`` marks rows that see no key at all; it keeps their
    weights 0 for the maps whose rows must sum to 1, and is None when it is known that there are none.

    With ``causal`` query i sees keys 0 … i, and no bias is held: kernels need none, and it grows with the square of the
    length.
    """

    bias: Tensor | None  # [batch or 1, 1, queries or 1, keys]
    dead: Tensor | None  # [batch or 1, 1, queries or 1, 1]
    causal: bool = False

    def bias_for(self, scores: Tensor) -> Tensor:
        """The bias to add to scores [batch, heads, queries, keys], in their dtype."""
        if self.bias is None:
            return _causal_bias(scores.shape[-1], scores.dtype, scores.device)
        if self.bias.dtype == scores.dtype:
            return self.bias
        # A wider dtype's lowest number would become −∞, and rows of nothing else NaN.
        lowest = max(torch.finfo(dtype).min for dtype in (self.bias.dtype, scores.dtype))
        bias = self.bias.clamp(min=lowest)
        # For all queries: half-precision arithmetic on CPUs is slow where one operand is spread over short rows.
        return bias.expand(-1, -1, scores.shape[2], -1).to(scores.dtype)

    def select(self, sentences: Tensor) -> Mask:
        """The mask of some sentences of the batch."""
        if self.bias is None:
            return self
        return Mask(self.bias[sentences], None if self.dead is None else self.dead[sentences])


#: The mask of a decoder over whole targets. They are padded on the right, so no valid query sees a padded key.
CAUSAL = Mask(None, None, causal=True)


def attention_mask(valid: Tensor, dtype: torch.dtype) -> Mask:
    """The mask of a boolean tensor, true where a key may be seen: [batch or 1, 1, queries or 1, keys]."""
    dead = ~valid.any(dim=-1, keepdim=True)
    # On a GPU it would have to be waited for to know that there are none.
    known_alive = valid.device.type == "cpu" and not bool(dead.any())
    return Mask(_bias(valid, dtype), None if known_alive else dead)


def key_padding_mask(valid: Tensor, dtype: torch.dtype) -> Mask:
    """The mask of key validity [batch, keys]: every query of a sentence sees its valid keys."""
    return attention_mask(valid[:, None, None, :], dtype)


def _bias(valid: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(valid, dtype=dtype).masked_fill_(~valid, torch.finfo(dtype).min)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept for training too, whatever first asked for it.
    return _bias(torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None], dtype)
