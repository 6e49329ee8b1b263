"""The teacher-forced pass: log-probabilities, batches, and what consumers receive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nmt_rela.analysis.quality import SentenceNullRates
from nmt_rela.analysis.teacher_forcing import (
    EncodedPair,
    SentenceWeights,
    WeightRecorder,
    batch_pairs,
    teacher_forced_pass,
)
from nmt_rela.models.attention_capture import capture_attention
from nmt_rela.models.transformer import Transformer

PAIRS = [
    EncodedPair(0, (4, 5, 6, 2), (5, 6, 2)),
    EncodedPair(1, (7, 2), (8, 9, 10, 11, 2)),
    EncodedPair(2, (5, 5, 5, 5, 5, 2), (2,)),
]


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        11, 13, attention="rela-g", encoder_layers=1, decoder_layers=2, d_model=16, ffn_dim=16, num_heads=4
    ).eval()


def capture(model: Transformer, pair: EncodedPair) -> dict[tuple[str, int], np.ndarray]:
    """The weights [heads, queries, keys] of one pair that is read alone."""
    with capture_attention(model) as attention:
        model(torch.tensor([pair.source]), model.shift_right(torch.tensor([pair.target])))
    return {key: weights[0].numpy() for key, weights in attention.items()}


def test_a_pair_has_the_log_probability_that_it_has_alone(model: Transformer) -> None:
    batched = teacher_forced_pass(model, PAIRS)
    alone = [teacher_forced_pass(model, [pair])[0] for pair in PAIRS]
    np.testing.assert_allclose(batched, alone, rtol=1e-5)
    target = torch.tensor([PAIRS[1].target])
    states = model.decode(model.shift_right(target), model.encode(torch.tensor([PAIRS[1].source])))
    expected = model.output_projection(states).log_softmax(-1)[0, range(5), target[0]].sum()
    assert batched[1] == pytest.approx(expected.item(), rel=1e-5)


def test_batches_hold_every_pair_once_within_the_bounds() -> None:
    pairs = [EncodedPair(i, (4,) * (1 + i % 70), (4,) * (1 + i % 50)) for i in range(400)]
    found = list(batch_pairs(pairs, max_positions=10_000))
    assert sorted(pair.index for batch in found for pair in batch) == list(range(400))
    longest = [max(pair.longest for pair in batch) for batch in found]
    assert all(len(batch) * length**2 <= 10_000 for batch, length in zip(found, longest, strict=True))
    assert all(len(batch) * length <= 10_000 // 32 for batch, length in zip(found, longest, strict=True))
    assert [len(batch) for batch in batch_pairs(pairs[6:7], max_positions=1)] == [1]


def test_progress_counts_every_pair(model: Transformer) -> None:
    done: list[int] = []
    teacher_forced_pass(model, PAIRS, progress=done.append)
    assert sum(done) == len(PAIRS)


def test_null_rates_per_sentence_agree_with_the_weights(model: Transformer) -> None:
    null_rates = SentenceNullRates()
    teacher_forced_pass(model, PAIRS, [null_rates])
    rates = null_rates.of(PAIRS)
    for row, pair in enumerate(PAIRS):
        for key, weights in capture(model, pair).items():
            np.testing.assert_allclose(rates[key][row], (weights == 0).all(-1).mean(-1), rtol=1e-5)


def test_recorded_weights_are_those_of_the_sentence_alone(model: Transformer) -> None:
    recorded: dict[int, SentenceWeights] = {}
    recorder = WeightRecorder({0, 2}, len(model.attention_modules()), recorded.__setitem__)
    teacher_forced_pass(model, PAIRS, [recorder])
    assert set(recorded) == {0, 2}
    for pair in (PAIRS[0], PAIRS[2]):
        for (site, layer), weights in capture(model, pair).items():
            np.testing.assert_allclose(recorded[pair.index][site][layer], weights, atol=1e-6)
