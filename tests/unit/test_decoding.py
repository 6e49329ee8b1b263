"""The decoder's caches: whatever the beams do, they hold what a prefix read at once gives, and little more."""

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
    """Of six sentences one that leaves makes the caches move at once; of twenty it is still in them for a while."""
    model = toy_model(attention=attention).eval()
    draw = torch.Generator().manual_seed(seed)
    beams, steps = 3, 23
    source = torch.randint(4, 20, (sentences, 7), generator=draw)
    source[1, 4:] = 0
    state = IncrementalDecoder(model, model.encode(source), num_beams=beams, max_length=steps)
    prefixes = torch.empty(sentences, 1, 0, dtype=torch.long)
    tokens = torch.full((sentences, 1), BOS)
    for step in range(steps):
        prefixes = torch.cat([prefixes, tokens.unsqueeze(2)], dim=2)
        logits = state.step(tokens)
        memory = model.encode(source.repeat_interleave(prefixes.shape[1], dim=0))
        states = model.decode(prefixes.flatten(0, 1), memory)[:, -1]
        assert logits.flatten(0, 1) == pytest.approx(model.output_projection(states), abs=2e-5)
        if step in (4, 11, 12):
            kept = torch.arange(len(source))[torch.randperm(len(source), generator=draw)[:-1].sort().values]
            state.select_sentences(kept)
            assert state.cached_sentences == (len(kept) if sentences == 6 else len(source))
            source, prefixes = source[kept], prefixes[kept]
        parents = torch.randint(0, prefixes.shape[1], (len(source), beams), generator=draw)
        state.reorder(parents)
        prefixes = prefixes.gather(1, parents.unsqueeze(2).expand(-1, -1, prefixes.shape[2]))
        tokens = torch.randint(4, 20, (len(source), beams), generator=draw)


@torch.no_grad()
def test_compaction_drops_slots_that_no_beam_sees() -> None:
    """Of beams that all descend from the best of the step before, one slot a position is seen: the caches grow with
    the length, not with the length times the beams.
    """
    model = toy_model(attention="softmax").eval()
    beams, steps = 8, 120
    state = IncrementalDecoder(model, model.encode(torch.tensor([[5, 6, 7]])), num_beams=beams, max_length=steps)
    tokens = torch.full((1, 1), BOS)
    for _ in range(steps):
        state.step(tokens)
        state.reorder(torch.zeros(1, beams, dtype=torch.long))
        tokens = torch.arange(4, 4 + beams).unsqueeze(0)
    slots = state.cache_slots
    # All positions, one more slot for each of the other beams since the last move, and room for a quarter.
    assert steps <= slots <= steps + (steps // 4 + 1) * beams < steps * beams / 2
