"""The incremental decoder gives the logits of whole prefixes, whatever the beams do, and its caches stay small."""

from __future__ import annotations

import pytest
import torch
from toy_translator import toy_model

from nmt_rela.models.incremental_decoder import IncrementalDecoder

BOS = 3


@pytest.mark.parametrize("attention", ["softmax", "sparsemax", "entmax15", "rela-i", "rela-g"])
@pytest.mark.parametrize(("seed", "sentences"), [(0, 6), (1, 6), (2, 20)])
@torch.no_grad()
def test_any_reordering_and_leaving_is_as_if_recomputed(attention: str, seed: int, sentences: int) -> None:
    """One of six sentences that leaves compacts the caches at once; one of twenty stays in them for a while."""
    model = toy_model(attention=attention).eval()
    draw = torch.Generator().manual_seed(seed)
    beams, steps = 3, 23
    source = torch.randint(4, 20, (sentences, 7), generator=draw)
    source[1, 4:] = 0
    decoder = IncrementalDecoder(model, model.encode(source), num_beams=beams, max_length=steps)
    prefixes = torch.empty(sentences, 1, 0, dtype=torch.long)
    tokens = torch.full((sentences, 1), BOS)
    for step in range(steps):
        prefixes = torch.cat([prefixes, tokens.unsqueeze(2)], dim=2)
        logits = decoder.step(tokens)
        encoder_output = model.encode(source.repeat_interleave(prefixes.shape[1], dim=0))
        hidden_states = model.decode(prefixes.flatten(0, 1), encoder_output)[:, -1]
        assert logits.flatten(0, 1) == pytest.approx(model.output_projection(hidden_states), abs=2e-5)
        if step in (4, 11, 12):
            kept = torch.arange(len(source))[torch.randperm(len(source), generator=draw)[:-1].sort().values]
            decoder.select_sentences(kept)
            assert decoder.cached_sentences == (len(kept) if sentences == 6 else len(source))
            source, prefixes = source[kept], prefixes[kept]
        beam_indices = torch.randint(0, prefixes.shape[1], (len(source), beams), generator=draw)
        decoder.reorder(beam_indices)
        prefixes = prefixes.gather(1, beam_indices.unsqueeze(2).expand(-1, -1, prefixes.shape[2]))
        tokens = torch.randint(4, 20, (len(source), beams), generator=draw)


@torch.no_grad()
def test_compaction_drops_slots_that_no_beam_sees() -> None:
    """When all beams continue the same one, one slot per position is seen: the caches grow with the length, not with
    the length times the beams.
    """
    model = toy_model(attention="softmax").eval()
    beams, steps = 8, 120
    decoder = IncrementalDecoder(model, model.encode(torch.tensor([[5, 6, 7]])), num_beams=beams, max_length=steps)
    tokens = torch.full((1, 1), BOS)
    for _ in range(steps):
        decoder.step(tokens)
        decoder.reorder(torch.zeros(1, beams, dtype=torch.long))
        tokens = torch.arange(4, 4 + beams).unsqueeze(0)
    slots = decoder.cache_slots
    # All positions, one more slot for each of the other beams since the last compaction, and room for a quarter.
    assert steps <= slots <= steps + (steps // 4 + 1) * beams < steps * beams / 2
