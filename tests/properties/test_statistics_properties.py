"""What holds for any heads at all."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from nmt_rela.analysis.statistics import AttentionStatistics, LayerStatistics

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


def weights_and_mask(shape: tuple[int, ...], seed: int, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, _, queries, keys = shape
    valid = torch.rand(batch, queries, keys, generator=generator) > 0.3
    scores = torch.randn(shape, generator=generator) * 3 - threshold
    return scores.relu() * valid[:, None], valid


def measure(weights: torch.Tensor, valid: torch.Tensor, parts: int = 1) -> LayerStatistics:
    statistics = AttentionStatistics()
    for w, v in zip(weights.tensor_split(parts), valid.tensor_split(parts), strict=True):
        statistics.add("cross", 0, w, v)
    return statistics.layers()[0]


@settings(max_examples=60, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), threshold=st.floats(-4, 6))
def test_rates_are_fractions_and_diversity_stays_below_the_logarithm_of_the_heads(
    shape: tuple[int, ...], seed: int, threshold: float
) -> None:
    found = measure(*weights_and_mask(shape, seed, threshold))
    for rate in found.sparsity + found.null_rate:
        assert 0 <= rate <= 1
    for sparsity, null in zip(found.sparsity, found.null_rate, strict=True):
        if null == 1:
            assert sparsity == 1
    for value in (found.diversity, found.diversity_softmax):
        assert value is None or 0 <= value <= math.log(shape[1]) + 1e-6
    for value in found.entropy:
        assert value is None or -1e-6 <= value <= math.log(shape[3]) + 1e-6


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), parts=st.integers(1, 3))
def test_batches_do_not_matter(shape: tuple[int, ...], seed: int, parts: int) -> None:
    weights, valid = weights_and_mask(shape, seed, 1.0)
    whole, streamed = measure(weights, valid), measure(weights, valid, parts)
    for name in LayerStatistics.__dataclass_fields__:
        if name != "site":
            assert getattr(streamed, name) == pytest.approx(getattr(whole, name), abs=1e-6), name


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), scale=st.floats(0.01, 50))
def test_scale_changes_the_mass_only(shape: tuple[int, ...], seed: int, scale: float) -> None:
    weights, valid = weights_and_mask(shape, seed, 1.0)
    before, after = measure(weights, valid), measure(weights * scale, valid)
    for name in ("sparsity", "null_rate", "entropy", "diversity"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-5), name
    assert after.mass == pytest.approx(tuple(mass * scale for mass in before.mass), rel=1e-4, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_masked_keys_change_nothing(shape: tuple[int, ...], seed: int) -> None:
    weights, valid = weights_and_mask(shape, seed, 0.5)
    wider = measure(torch.nn.functional.pad(weights, (0, 2)), torch.nn.functional.pad(valid, (0, 2)))
    narrow = measure(weights, valid)
    for name in LayerStatistics.__dataclass_fields__:
        if name != "site":
            assert getattr(wider, name) == pytest.approx(getattr(narrow, name), abs=1e-6), name
