"""The decoder one token at a time: caches, their order, and which sentences are still alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.mask import Mask

if TYPE_CHECKING:
    from nmt_rela.attention.multi_head_attention import MultiHeadAttention
    from nmt_rela.models.transformer import Transformer

#: Positions that the caches of self-attention have room for at first, and at least whenever they are moved.
_ROOM = 4
#: Sentences that have left are taken out of the caches when they are at least this share of them.
_LEFT_SHARE = 0.125


class IncrementalDecoder:
    """All that a search needs to continue its hypotheses.

    In both attentions the beams of a sentence are the query axis, and keys and values are never copied from beam to
    beam: those of cross-attention belong to the sentence, and those of self-attention stay in the slot where they
    were written, one a position and beam. Which slots a beam may see, its own history, is a mask: re-ordering beams
    moves nothing else. Now and then the caches are moved, and leave behind the slots that no beam sees any more. As
    beams soon share all but their last words, a sentence of n positions has not much more than n slots.

    A sentence that leaves has no logits made any more; it stays in the caches until they are moved.
    """

    def __init__(self, model: Transformer, states: Tensor, mask: Mask, *, beams: int, max_length: int) -> None:
        self._model = model
        self._mask = mask
        self._beams, self._max_length, self._length = beams, max_length, 0
        # Where the sentences still searched stand in the caches; None: all of them are.
        self._rows: Tensor | None = None
        # Per layer 2 × [sentences, heads, source_length, width]; contiguous once, or each product would copy them.
        self._memory = [
            tuple(part.contiguous() for part in layer.cross_attention.project_memory(states))  # type: ignore[operator,union-attr]
            for layer in model.decoder
        ]
        # Per layer 2 × [sentences, heads, slots, width], of which the first ``_used`` slots are written. All are
        # multiplied, as they lie: oneDNN would copy a part, at every step.
        self._caches: list[tuple[Tensor, Tensor]] = []
        self._used = 0
        # [sentences, beams, slots]: 0 at a beam's own history, the dtype's lowest number elsewhere
        self._history = states.new_empty(0)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every hypothesis: [sentences, beams] → float32 logits [sentences, beams, vocabulary].

        The first call takes BOS, of one beam a sentence or of all; from one, ``reorder`` makes more.
        """
        model, beams = self._model, tokens.shape[1]
        assert self._length < self._max_length
        first = self._length == 0
        if not first and self._used + beams > self._history.shape[2]:
            self._move()
        tokens = self._for_all(tokens)
        sentences = len(tokens)
        states = model.target_embedding(
            tokens.reshape(-1, 1), offset=self._length, zero_first=first and model.zero_start
        ).view(sentences, beams, -1)
        if first:
            slots = min(_ROOM, self._max_length) * self._beams
            self._history = states.new_full((sentences, beams, slots), torch.finfo(states.dtype).min)
        self._history[:, :, self._used : self._used + beams].diagonal(dim1=1, dim2=2).zero_()
        for index, layer in enumerate(model.decoder):
            states = layer(
                states,
                lambda x, a=layer.self_attention, i=index: self._attend_prefix(a, i, x),
                lambda x, a=layer.cross_attention, i=index: a.attend(a.project_query(x), *self._memory[i], self._mask),
            )
        self._length += 1
        self._used += beams
        if self._rows is not None:
            states = states.index_select(0, self._rows)
        return model.project(model.decoder_norm(states)).float()

    def reorder(self, beams: Tensor) -> None:
        """Let beam b of sentence s continue what beam ``beams[s, b]`` held: [sentences, beams]."""
        beams = self._for_all(beams)
        self._history = self._history.gather(1, beams.unsqueeze(2).expand(-1, -1, self._history.shape[2]))

    def select_sentences(self, sentences: Tensor) -> None:
        """Let all but the sentences of these indices leave the batch: [kept], ascending."""
        self._rows = sentences if self._rows is None else self._rows.index_select(0, sentences)
        if len(sentences) <= (1.0 - _LEFT_SHARE) * len(self._history):
            self._move()

    def _for_all(self, values: Tensor) -> Tensor:
        """Values [sentences, beams] with zeros for those who have left."""
        if self._rows is None:
            return values
        return values.new_zeros(len(self._history), values.shape[1]).index_copy_(0, self._rows, values)

    def _attend_prefix(self, attention: MultiHeadAttention, index: int, states: Tensor) -> Tensor:
        """Self-attention of the newest position: [sentences, beams, dimension] → the same."""
        query, key, value = attention.project_self(states)  # [sentences, heads, beams, width]
        if index == len(self._caches):
            shape = (*key.shape[:2], self._history.shape[2], key.shape[3])
            self._caches.append((key.new_zeros(shape), value.new_zeros(shape)))
        keys, values = self._caches[index]
        keys[:, :, self._used : self._used + states.shape[1]] = key
        values[:, :, self._used : self._used + states.shape[1]] = value
        return attention.attend(query, keys, values, Mask(self._history.unsqueeze(1), None))

    def _move(self) -> None:
        """Move to caches of the sentences still searched and of the slots that their beams still see, with room for
        more.
        """
        sentences = self._rows
        if sentences is None:
            sentences = torch.arange(len(self._history), device=self._history.device)
        else:
            self._mask = self._mask.select(sentences)
            self._memory = [tuple(part.index_select(0, sentences) for part in layer) for layer in self._memory]
            self._rows = None
        history = self._history.index_select(0, sentences)  # [kept, beams, slots]
        seen = (history == 0.0).any(dim=1)
        self._used = int(seen.sum(dim=1).max())
        room = min(max(_ROOM, self._length // 4), self._max_length - self._length)
        slots, slots_before = self._used + room * self._beams, history.shape[2]
        # The slots that are seen come first. What fills the room is seen by none, so any slot will do.
        order = seen.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        order = F.pad(order, (0, max(0, slots - slots_before)))[:, :slots]  # [kept, slots]
        self._history = history.gather(2, order.unsqueeze(1).expand(-1, history.shape[1], -1))
        self._history[:, :, self._used :] = torch.finfo(history.dtype).min
        heads, width = self._caches[0][0].shape[1], self._caches[0][0].shape[3]
        blocks = sentences.unsqueeze(1) * heads + torch.arange(heads, device=order.device)  # [kept, heads]
        rows = (blocks.unsqueeze(2) * slots_before + order.unsqueeze(1)).flatten()
        shape = (len(sentences), heads, slots, width)
        self._caches = [
            (
                key.view(-1, width).index_select(0, rows).view(shape),
                value.view(-1, width).index_select(0, rows).view(shape),
            )
            for key, value in self._caches
        ]
