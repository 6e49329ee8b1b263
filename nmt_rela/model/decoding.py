"""The decoder one token at a time: caches, their order, and which sentences are still alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nmt_rela.attention.mask import Mask

if TYPE_CHECKING:
    from nmt_rela.attention.multi_head import MultiHeadAttention
    from nmt_rela.model.transformer import Transformer


class DecoderState:
    """All that a search needs to continue its hypotheses.

    Keys and values of cross-attention are computed once a sentence and never copied per beam: the beam is the
    query axis. Caches of self-attention are preallocated, and re-ordered in place.
    """

    def __init__(self, model: Transformer, states: Tensor, mask: Mask, *, beams: int, max_length: int) -> None:
        self._model = model
        self._mask = mask
        self._beams, self._max_length, self._length = beams, max_length, 0
        # Per layer 2 × [sentences, heads, source_length, width]
        self._memory = [layer.cross_attention.project_memory(states) for layer in model.decoder]  # type: ignore[operator,union-attr]
        # Per layer 2 × [sentences · beams, heads, max_length, width], made at the first step, which knows the dtype
        self._caches: list[tuple[Tensor, Tensor]] = []

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every hypothesis: [sentences, beams] → float32 logits [sentences, beams, vocabulary].

        The first call takes BOS. Rows of one sentence follow one another.
        """
        model, sentences = self._model, tokens.shape[0]
        assert self._length < self._max_length
        first = self._length == 0
        states = model.target_embedding(
            tokens.reshape(-1, 1), offset=self._length, zero_first=first and model.zero_start
        ).view(sentences, self._beams, -1)
        for index, layer in enumerate(model.decoder):
            states = layer(
                states,
                lambda x, a=layer.self_attention, i=index: self._attend_prefix(a, i, x),
                lambda x, a=layer.cross_attention, i=index: a.attend(a.project_query(x), *self._memory[i], self._mask),
            )
        self._length += 1
        return model.project(model.decoder_norm(states)).float()

    def reorder(self, beams: Tensor) -> None:
        """Let beam b of sentence s continue what beam ``beams[s, b]`` held: [sentences, beams]."""
        sentences = beams.shape[0]
        first_rows = beams.new_tensor(range(sentences)).mul_(self._beams)[:, None]
        rows = (first_rows + beams).flatten()
        for cache in self._caches:
            for tensor in cache:
                used = tensor[:, :, : self._length]
                used.copy_(used.index_select(0, rows))

    def keep(self, sentences: Tensor) -> None:
        """Let all but the sentences of these indices leave the batch: [kept]."""
        self._mask = self._mask.select(sentences)
        self._memory = [
            (key.index_select(0, sentences), value.index_select(0, sentences)) for key, value in self._memory
        ]
        self._caches = [(self._rows_of(key, sentences), self._rows_of(value, sentences)) for key, value in self._caches]

    def _rows_of(self, cache: Tensor, sentences: Tensor) -> Tensor:
        return cache.unflatten(0, (-1, self._beams)).index_select(0, sentences).flatten(0, 1)

    def _attend_prefix(self, attention: MultiHeadAttention, index: int, states: Tensor) -> Tensor:
        """Self-attention of the newest position: [sentences, beams, dimension] → the same."""
        query, key, value = attention.project_self(states.reshape(-1, 1, states.shape[-1]))
        if self._length == 0:
            shape = (key.shape[0], key.shape[1], self._max_length, key.shape[3])
            self._caches.append((key.new_empty(shape), value.new_empty(shape)))
        end = self._length + 1
        keys, values = self._caches[index]
        keys[:, :, self._length] = key[:, :, 0]
        values[:, :, self._length] = value[:, :, 0]
        return attention.attend(query, keys[:, :, :end], values[:, :, :end], None).view_as(states)
