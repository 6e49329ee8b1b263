"""Switching heads off, ranking them, and the correlations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nmt_rela.analysis.capture import capture_attention
from nmt_rela.analysis.head_ablation import (
    ablate_heads,
    auc,
    loss_of,
    mean_ranks,
    measure_heads,
    null_rate_correlations,
    pearson,
    rank_heads,
    spearman,
)
from nmt_rela.analysis.teacher_forcing import Pair, StatisticsConsumer, batches, teacher_forced_pass
from nmt_rela.models.transformer import Transformer

PAIRS = [
    Pair(0, (4, 5, 6, 2), (5, 6, 2)),
    Pair(1, (7, 2), (8, 9, 10, 11, 2)),
    Pair(2, (5, 5, 5, 5, 5, 2), (2,)),
]


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        11, 13, attention="rela-g", encoder_layers=1, decoder_layers=2, dimension=16, feed_forward=16, heads=4
    ).eval()


def test_forced_pass_gives_each_pair_the_probability_it_has_alone(model: Transformer) -> None:
    together = teacher_forced_pass(model, PAIRS)
    alone = [teacher_forced_pass(model, [pair])[0] for pair in PAIRS]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    target = torch.tensor([PAIRS[1].target])
    states = model(torch.tensor([PAIRS[1].source]), model.shift(target))
    expected = model.project(states).log_softmax(-1)[0, range(5), target[0]].sum()
    assert together[1] == pytest.approx(expected.item(), rel=1e-5)


def test_batches_hold_every_pair_once_within_the_budget() -> None:
    pairs = [Pair(i, (4,) * (1 + i % 7), (4,) * (1 + i % 5)) for i in range(40)]
    found = list(batches(pairs, positions=100))
    assert sorted(pair.index for batch in found for pair in batch) == list(range(40))
    assert all(len(batch) * max(pair.longest for pair in batch) ** 2 <= 100 for batch in found)
    assert [len(batch) for batch in batches(pairs[6:7], positions=1)] == [1]


def test_null_rates_by_sentence_agree_with_the_weights(model: Transformer) -> None:
    consumer = StatisticsConsumer()
    teacher_forced_pass(model, PAIRS, [consumer])
    rates = consumer.null_rates(PAIRS)
    for place, pair in enumerate(PAIRS):
        with capture_attention(model) as attention:
            model(torch.tensor([pair.source]), model.shift(torch.tensor([pair.target])))
        for key, weights in attention.items():
            expected = (weights == 0).all(-1).float().mean(-1)[0]
            np.testing.assert_allclose(rates[key][place], expected, rtol=1e-5)


def test_a_switched_off_head_is_as_good_as_a_head_without_weights(model: Transformer) -> None:
    source, target = torch.tensor([PAIRS[0].source]), torch.tensor([PAIRS[0].target])
    module = model.attention_modules()["cross", 1]
    with ablate_heads(model, [("cross", 1, 2)]):
        masked = model(source, model.shift(target))
    with torch.no_grad():
        module.key_value.weight[16 + 8 : 16 + 12] = 0  # the values of head 2
        module.key_value.bias[16 + 8 : 16 + 12] = 0
    torch.testing.assert_close(masked, model(source, model.shift(target)))


def test_masks_nest_and_come_back(model: Transformer) -> None:
    module = model.attention_modules()["encoder", 0]
    with ablate_heads(model, [("encoder", 0, 0)]):
        with ablate_heads(model, [("encoder", 0, 3)]):
            assert module.head_mask is not None
            assert module.head_mask.tolist() == [0, 1, 1, 0]
        assert module.head_mask.tolist() == [0, 1, 1, 1]
    assert module.head_mask is None
    with (
        pytest.raises(ValueError, match="no head 4 at encoder layer 0"),
        ablate_heads(model, [("encoder", 0, 4)]),
    ):
        pass
    assert module.head_mask is None


def test_heads_are_ranked_and_studied(model: Transformer) -> None:
    consumer = StatisticsConsumer()
    teacher_forced_pass(model, PAIRS, [consumer])
    layers = consumer.statistics.layers()
    ranking = rank_heads(layers)
    assert len(ranking) == len(set(ranking)) == 20
    rates = {(x.site, x.layer, h): (x.null_rate[h], x.sparsity[h]) for x in layers for h in range(4)}
    assert [rates[head] for head in ranking] == sorted(rates.values(), reverse=True)

    study = measure_heads(model, PAIRS, layers, num_steps=4, bleu=lambda: 7.0)
    assert study.loss == pytest.approx(loss_of(model, PAIRS))
    assert [(e.site, e.layer, e.head) for e in study.effects] == ranking
    first = study.effects[0]
    with ablate_heads(model, ranking[:1]):
        assert first.loss_change == pytest.approx(loss_of(model, PAIRS) - study.loss, abs=1e-6)
    assert [step.heads_off for step in study.steps] == [0, 5, 10, 15, 20]
    assert study.steps[0].loss == pytest.approx(study.loss)
    assert {step.bleu for step in study.steps} == {7.0}


def test_a_null_head_costs_nothing(model: Transformer) -> None:
    module = model.attention_modules()["decoder", 0]
    with torch.no_grad():  # head 1: equal queries and opposite keys, so that every score is negative
        for start, value in ((4, 1.0), (20, -1.0)):
            module.query_key_value.weight[start : start + 4] = 0
            module.query_key_value.bias[start : start + 4] = value
    consumer = StatisticsConsumer()
    teacher_forced_pass(model, PAIRS, [consumer])
    layers = consumer.statistics.layers()
    assert rank_heads(layers)[0] == ("decoder", 0, 1)
    with ablate_heads(model, [("decoder", 0, 1)]):
        without = loss_of(model, PAIRS)
    assert without == loss_of(model, PAIRS)


def test_correlations_have_their_known_values() -> None:
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [9, 7, 5, -100]) == pytest.approx(-1)
    # By hand: Σdxdy = 3, Σdx² = 10, Σdy² = 5.2
    assert pearson([0, 1, 2, 3, 4], [0, 2, 1, 3, 1]) == pytest.approx(3 / (10 * 5.2) ** 0.5)
    assert mean_ranks([10, 20, 10, 5]).tolist() == [2.5, 4, 2.5, 1]
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2], [1, 2]) is None
    assert auc([0, 0, 1], [1, 2]) == pytest.approx(5.5 / 6)
    assert auc([1, 2], [1, 2]) == 0.5


def test_null_rates_are_correlated_by_site_and_layer() -> None:
    rates = {
        ("cross", 0): np.array([[0.0, 0.2], [0.2, 0.4], [0.4, 0.6]], dtype=np.float32),
        ("cross", 1): np.zeros((3, 2), dtype=np.float32),
    }
    found = {(c.site, c.layer): (c.pearson, c.spearman) for c in null_rate_correlations(rates, [-1.0, -2.0, -3.0])}
    assert found["cross", None] == (pytest.approx(-1), pytest.approx(-1))
    assert found["cross", 0] == (pytest.approx(-1), pytest.approx(-1))
    assert found["cross", 1] == (None, None)
