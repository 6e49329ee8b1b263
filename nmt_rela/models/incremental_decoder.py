"""The decoder one token at a time: caches, their order, and the sentences that are still searched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt_rela.attention.mask import AttentionMask
from nmt_rela.models.layer_cache import LayerCache
from nmt_rela.models.layers import ResidualStream
from nmt_rela.models.transformer import EncoderOutput, Transformer, final_states

#: Positions that the caches have room for at first, and at least whenever they are compacted.
_CACHE_GROWTH = 4
#: Sentences that left the search are removed from the caches once they are at least this fraction of them.
_COMPACTION_THRESHOLD = 0.125


class IncrementalDecoder:
    """The state from which a search continues its hypotheses.

    The beams of a sentence are the query axis of both attentions. Keys and values are never copied from beam to beam:
    those of cross-attention belong to the sentence, and those of self-attention stay in the slot where they were
    written, one slot per position and beam. A mask says which slots a beam sees, namely its own history. Re-ordering
    beams moves only this mask. With two beams, after three steps in which beam 1 continued beam 0 at the second:

        slot      0   1   2   3   4   5        (step 1: 0–1, step 2: 2–3, step 3: 4–5)
        beam 0    x       x       x
        beam 1    x           x       x

    The caches are compacted now and then: slots that no beam sees and sentences that left are dropped. Beams soon share
    all but their last words, so a sentence of n positions has not much more than n slots. No logits are computed for a
    sentence that left the search; it stays in the caches until the next compaction.
    """

    def __init__(self, model: Transformer, encoder_output: EncoderOutput, *, num_beams: int, max_length: int) -> None:
        """Start ``num_beams`` hypotheses per sentence, none longer than ``max_length``."""
        self.model = model
        self._cross_attention_mask = encoder_output.attention_mask
        self._num_beams, self._max_length, self._length = num_beams, max_length, 0
        # Rows of the caches that are still searched; None: all of them.
        self._active_rows: Tensor | None = None
        hidden_states = encoder_output.hidden_states
        slots = min(_CACHE_GROWTH, max_length) * num_beams
        self._caches = [
            LayerCache(layer.cross_attention.project_kv(hidden_states), slots=slots)  # type: ignore[operator,union-attr]
            for layer in model.decoder
        ]
        # [sentences, beams, slots]: 0 at a beam's own history, the dtype's lowest number elsewhere
        shape = (len(hidden_states), num_beams, slots)
        self._beam_visibility = hidden_states.new_full(shape, torch.finfo(hidden_states.dtype).min)

    @property
    def cache_nbytes(self) -> int:
        """Bytes of all keys and values, those of cross-attention included."""
        return sum(x.nbytes for cache in self._caches for x in (*cache.cross, cache.keys, cache.values))

    @property
    def cached_sentences(self) -> int:
        """Sentences in the caches, those included that left the search since the last compaction."""
        return len(self._beam_visibility)

    @property
    def cache_slots(self) -> int:
        """Slots of self-attention per sentence, written or not."""
        return self._beam_visibility.shape[2]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every hypothesis: [sentences, beams] → logits [sentences, beams, vocabulary].

        The first call takes the first token, of one beam per sentence or of all; from one, ``reorder`` makes more.
        """
        model, beams = self.model, tokens.shape[1]
        assert self._length < self._max_length
        if self._length and self._cache_length + beams > self.cache_slots:
            self._compact_cache()
        tokens = self._scatter_active(tokens)
        embedded = model.embed_target(tokens.reshape(-1, 1), offset=self._length)
        embedded = model.target_embedding.add_positions(embedded, offset=self._length)
        x = ResidualStream.of(embedded.view(len(tokens), beams, -1))  # [sentences, beams, d_model]
        end = self._cache_length + beams
        self._beam_visibility[:, :beams, self._cache_length : end].diagonal(dim1=1, dim2=2).zero_()
        self_attention_mask = AttentionMask(self._beam_visibility[:, None, :beams], None)
        for layer, cache in zip(model.decoder, self._caches, strict=True):
            x = layer(x, None, self_attention_mask, self._cross_attention_mask, cache)
        self._length += 1
        hidden_states = final_states(model.decoder_norm, x)
        if self._active_rows is not None:
            hidden_states = hidden_states.index_select(0, self._active_rows)
        return model.output_projection(hidden_states)

    def reorder(self, beam_indices: Tensor) -> None:
        """Let beam b of sentence s continue the hypothesis of beam ``beam_indices[s, b]``: [sentences, beams]."""
        beam_indices = self._scatter_active(beam_indices)
        self._beam_visibility = self._beam_visibility.gather(
            1, beam_indices.unsqueeze(2).expand(-1, -1, self.cache_slots)
        )

    def select_sentences(self, indices: Tensor) -> None:
        """Keep only these sentences in the batch: [kept], ascending."""
        self._active_rows = indices if self._active_rows is None else self._active_rows.index_select(0, indices)
        if len(indices) <= (1.0 - _COMPACTION_THRESHOLD) * len(self._beam_visibility):
            self._compact_cache()

    @property
    def _cache_length(self) -> int:
        return self._caches[0].length

    def _scatter_active(self, values: Tensor) -> Tensor:
        """Values [sentences, beams] with zeros for sentences that left the search."""
        if self._active_rows is None:
            return values
        return values.new_zeros(len(self._beam_visibility), values.shape[1]).index_copy_(0, self._active_rows, values)

    def _compact_cache(self) -> None:
        """Drop sentences that left and slots that no beam sees, and make room for more positions."""
        sentences = self._active_rows
        if sentences is None:
            sentences = torch.arange(len(self._beam_visibility), device=self._beam_visibility.device)
        else:
            self._cross_attention_mask = self._cross_attention_mask.index_select(sentences)
            for cache in self._caches:
                cache.select_cross(sentences)
            self._active_rows = None
        visibility = self._beam_visibility.index_select(0, sentences)  # [kept, beams, slots]
        seen = (visibility == 0.0).any(dim=1)
        length = int(seen.sum(dim=1).max())
        room = min(max(_CACHE_GROWTH, self._length // 4), self._max_length - self._length)
        slots = length + room * self._num_beams
        # Visible slots come first. No beam sees those that fill the room, so any slot will do for them.
        order = seen.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        order = F.pad(order, (0, max(0, slots - order.shape[1])))[:, :slots]  # [kept, new slots]
        self._beam_visibility = visibility.gather(2, order.unsqueeze(1).expand(-1, visibility.shape[1], -1))
        self._beam_visibility[:, :, length:] = torch.finfo(visibility.dtype).min
        for cache in self._caches:
            cache.compact(sentences, order, length=length)
