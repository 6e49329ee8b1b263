"""Weights of training sources: an epoch has as many pairs as asked for, and every pair its turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt_rela.data.batch_plan import plan_epoch
from nmt_rela.data.corpus_weights import source_weights, weighted_pairs

WEIGHTED = st.lists(st.tuples(st.integers(0, 40), st.floats(0.001, 5.0)), min_size=1, max_size=4)


@given(WEIGHTED, st.integers(0, 30), st.integers(0, 2**40))
def test_the_pairs_of_a_source_are_those_asked_for_within_one(
    sources: list[tuple[int, float]], epoch: int, seed: int
) -> None:
    sizes, weights = [size for size, _ in sources], [weight for _, weight in sources]
    by_source = weighted_pairs(sizes, weights, seed=seed, epoch=epoch)
    first = 0
    for size, weight, pairs in zip(sizes, weights, by_source, strict=True):
        assert abs(len(pairs) - weight * size) <= 1
        assert all(first <= pair < first + size for pair in pairs)
        first += size
    again = weighted_pairs(sizes, weights, seed=seed, epoch=epoch)
    assert all((a == b).all() for a, b in zip(by_source, again, strict=True))


@given(WEIGHTED, st.integers(1, 12))
def test_over_the_epochs_every_pair_is_seen_equally_often_within_one(
    sources: list[tuple[int, float]], epochs: int
) -> None:
    sizes, weights = [size for size, _ in sources], [weight for _, weight in sources]
    seen = np.zeros(sum(sizes), dtype=int)
    for epoch in range(epochs):
        for pairs in weighted_pairs(sizes, weights, seed=3, epoch=epoch):
            np.add.at(seen, pairs, 1)
    first = 0
    for size in sizes:
        assert np.ptp(seen[first : first + size]) <= 1 if size else True
        first += size


def test_passes_over_a_source_have_different_orders() -> None:
    (first,), (second,) = (weighted_pairs([50], [1.0], seed=1, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)


@pytest.mark.parametrize(
    ("temperature", "fractions"), [(1.0, [0.9, 0.1]), (2.0, [0.75, 0.25]), (100.0, [0.505, 0.495])]
)
def test_a_temperature_evens_out_the_fractions_and_keeps_the_size(temperature: float, fractions: list[float]) -> None:
    sizes = {"large": 9_000, "small": 1_000}
    weights = source_weights(sizes, {}, temperature)
    expected = [weight * size / 10_000 for weight, size in zip(weights, sizes.values(), strict=True)]
    assert expected == pytest.approx(fractions, abs=2e-3)
    assert sum(expected) == pytest.approx(1.0)


def test_a_plan_holds_the_chosen_pairs_as_often_as_they_are_named() -> None:
    lengths = np.arange(1, 101, dtype=np.int32)
    chosen = np.array([5, 7, 7, 7, 99, 3])
    plan = plan_epoch(lengths, lengths, update_tokens=128, seed=1, epoch=0, chosen=chosen)
    assert sorted(plan.order.tolist()) == sorted(chosen.tolist())
