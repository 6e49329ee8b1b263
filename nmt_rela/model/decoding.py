"""The decoder one token at a time: caches, their order, and which sentences are still alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmt_rela.attention.mask import Mask

if TYPE_CHECKING:
    from nmt_rela.attention.multi_head import MultiHeadAttention
    from nmt_rela.model.transformer import Transformer

#: Positions that the caches of self-attention hold at first; they double when they are full.
_POSITIONS = 16


class DecoderState:
    """All that a search needs to continue its hypotheses.

    In both attentions the beams of a sentence are the query axis, and keys and values are never copied from beam to
    beam: those of cross-attention belong to the sentence, and those of self-attention stay in the slot where they
    were written, one a position and beam. Which slots a beam may see, its own history, is a mask: re-ordering beams
    moves nothing else.
    """

    def __init__(self, model: Transformer, states: Tensor, mask: Mask, *, beams: int, max_length: int) -> None:
        self._model = model
        self._mask = mask
        self._beams, self._max_length, self._length = beams, max_length, 0
        # Per layer 2 × [sentences, heads, source_length, width]; contiguous once, or each product would copy them.
        self._memory = [
            tuple(part.contiguous() for part in layer.cross_attention.project_memory(states))  # type: ignore[operator,union-attr]
            for layer in model.decoder
        ]
        # Per layer 2 × [sentences, heads, slots, width], of which the first ``_used`` slots are written.
        self._caches: list[tuple[Tensor, Tensor]] = []
        self._used = 0
        # [sentences, beams, used slots]: 0 at a beam's own history, the dtype's lowest number elsewhere
        self._history = states.new_zeros(states.shape[0], 1, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every hypothesis: [sentences, beams] → float32 logits [sentences, beams, vocabulary].

        The first call takes BOS, of one beam a sentence or of all; from one, ``reorder`` makes more.
        """
        model, (sentences, beams) = self._model, tokens.shape
        assert self._length < self._max_length
        first = self._length == 0
        states = model.target_embedding(
            tokens.reshape(-1, 1), offset=self._length, zero_first=first and model.zero_start
        ).view(sentences, beams, -1)
        others = torch.finfo(states.dtype).min
        newest = states.new_full((beams, beams), others).fill_diagonal_(0.0)
        history = self._history.expand(-1, beams, -1)
        self._history = torch.cat([history.to(states.dtype), newest.expand(sentences, -1, -1)], dim=2)
        for index, layer in enumerate(model.decoder):
            states = layer(
                states,
                lambda x, a=layer.self_attention, i=index: self._attend_prefix(a, i, x),
                lambda x, a=layer.cross_attention, i=index: a.attend(a.project_query(x), *self._memory[i], self._mask),
            )
        self._length += 1
        self._used += beams
        return model.project(model.decoder_norm(states)).float()

    def reorder(self, beams: Tensor) -> None:
        """Let beam b of sentence s continue what beam ``beams[s, b]`` held: [sentences, beams]."""
        self._history = self._history.gather(1, beams.unsqueeze(2).expand(-1, -1, self._used))

    def keep(self, sentences: Tensor) -> None:
        """Let all but the sentences of these indices leave the batch: [kept]."""
        self._mask = self._mask.select(sentences)
        self._memory = [tuple(part.index_select(0, sentences) for part in layer) for layer in self._memory]
        self._caches = [
            (key.index_select(0, sentences), value.index_select(0, sentences)) for key, value in self._caches
        ]
        self._history = self._history.index_select(0, sentences)

    def _attend_prefix(self, attention: MultiHeadAttention, index: int, states: Tensor) -> Tensor:
        """Self-attention of the newest position: [sentences, beams, dimension] → the same."""
        query, key, value = attention.project_self(states)  # [sentences, heads, beams, width]
        end = self._used + states.shape[1]
        keys, values = self._room(index, key, end)
        keys[:, :, self._used : end] = key
        values[:, :, self._used : end] = value
        mask = None if states.shape[1] == 1 else Mask(self._history.unsqueeze(1), None)
        return attention.attend(query, keys[:, :, :end], values[:, :, :end], mask)

    def _room(self, index: int, key: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """The caches of a layer, with room for ``end`` slots."""
        sentences, heads, _, width = key.shape
        if index == len(self._caches):
            slots = min(_POSITIONS, self._max_length) * self._beams
            self._caches.append(
                (key.new_empty(sentences, heads, slots, width), key.new_empty(sentences, heads, slots, width))
            )
        slots = self._caches[index][0].shape[2]
        if end > slots:
            slots = min(2 * slots, self._max_length * self._beams)
            self._caches[index] = (
                self._grown(self._caches[index][0], slots),
                self._grown(self._caches[index][1], slots),
            )
        return self._caches[index]

    def _grown(self, cache: Tensor, slots: int) -> Tensor:
        sentences, heads, _, width = cache.shape
        grown = cache.new_empty(sentences, heads, slots, width)
        grown[:, :, : self._used] = cache[:, :, : self._used]
        return grown
