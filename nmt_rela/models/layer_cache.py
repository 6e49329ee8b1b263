"""Keys and values that one decoder layer keeps from step to step."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of cross-attention, fixed, and of self-attention, growing slot by slot.

    Shapes: ``cross`` 2 × [sentences, heads, source length, head_dim]; the cache of self-attention
    2 × [sentences, heads, slots, head_dim], of which the first ``length`` slots are written.
    """

    def __init__(self, cross: tuple[Tensor, Tensor], *, slots: int) -> None:
        # Contiguous once, because every matmul would copy a view.
        self.cross = (cross[0].contiguous(), cross[1].contiguous())
        sentences, heads, _, head_dim = cross[0].shape
        self.keys, self.values = (x.new_zeros(sentences, heads, slots, head_dim) for x in cross)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write one slot per beam, [sentences, heads, beams, head_dim], and return all keys and values.

        The whole cache is returned, written or not: a slice would be non-contiguous, and oneDNN would copy it at every
        step.
        """
        end = self.length + key.shape[2]
        self.keys[:, :, self.length : end] = key
        self.values[:, :, self.length : end] = value
        self.length = end
        return self.keys, self.values

    def compact(self, sentences: Tensor, slots: Tensor, *, length: int) -> None:
        """Keep some sentences [kept] and, of each, some slots [kept, new slots]; the first ``length`` are in use."""
        heads, old_slots, head_dim = self.keys.shape[1:]
        blocks = sentences.unsqueeze(1) * heads + torch.arange(heads, device=sentences.device)  # [kept, heads]
        rows = (blocks.unsqueeze(2) * old_slots + slots.unsqueeze(1)).flatten()
        shape = (len(sentences), heads, slots.shape[1], head_dim)
        self.keys, self.values = (
            x.view(-1, head_dim).index_select(0, rows).view(shape) for x in (self.keys, self.values)
        )
        self.length = length

    def select_cross(self, sentences: Tensor) -> None:
        """Keep the source keys and values of some sentences [kept]."""
        key, value = self.cross
        self.cross = (key.index_select(0, sentences), value.index_select(0, sentences))
