"""Statistics against plain loops, and against heads whose numbers are known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nmt_rela.analysis.statistics import AttentionStatistics, LayerStatistics, pool_layers
from nmt_rela.metrics.attention_sparsity import null_rows, valid_positions


def statistics_of(weights: Tensor, valid: Tensor) -> LayerStatistics:
    statistics = AttentionStatistics()
    statistics.add("cross", 0, weights, valid)
    return statistics.layers()[0]


def everything_valid(weights: Tensor) -> Tensor:
    batch, _, queries, keys = weights.shape
    return torch.ones(batch, queries, keys, dtype=torch.bool)


def entropy(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


def brute_force(weights: Tensor, valid: Tensor) -> dict[str, object]:
    """The definitions, one weight at a time."""
    batch, heads, queries, keys = weights.shape
    zeros, nulls, masses = [0] * heads, [0] * heads, [0.0] * heads
    entropies: list[list[float]] = [[] for _ in range(heads)]
    divergences: list[float] = []
    soft_divergences: list[float] = []
    positions = rows = 0
    for b in range(batch):
        for q in range(queries):
            visible = [k for k in range(keys) if valid[b, q, k]]
            if not visible:
                continue
            rows += 1
            positions += len(visible)
            distributions, soft = [], []
            for h in range(heads):
                row = [float(weights[b, h, q, k]) for k in visible]
                zeros[h] += row.count(0.0)
                masses[h] += sum(row)
                total = sum(math.exp(w) for w in row)
                soft.append([math.exp(w) / total for w in row])
                if any(row):
                    distributions.append([w / sum(row) for w in row])
                    entropies[h].append(entropy(distributions[-1]))
                else:
                    nulls[h] += 1
            for group, values in ((distributions, divergences), (soft, soft_divergences)):
                if len(group) >= 2:
                    mixture = [sum(column) / len(group) for column in zip(*group, strict=True)]
                    values.append(entropy(mixture) - sum(map(entropy, group)) / len(group))
    return {
        "queries": rows,
        "positions": positions,
        "sparsity": [z / positions for z in zeros],
        "null_rate": [n / rows for n in nulls],
        "mass": [m / rows for m in masses],
        "entropy": [sum(e) / len(e) if e else None for e in entropies],
        "diversity": sum(divergences) / len(divergences) if divergences else None,
        "diversity_queries": len(divergences),
        "diversity_null_rows": sum(nulls),
        "diversity_softmax": sum(soft_divergences) / len(soft_divergences) if soft_divergences else None,
    }


def sparse_weights(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) - 0.8).relu()


@pytest.mark.parametrize("site", ["encoder", "decoder", "cross"])
def test_streamed_statistics_equal_plain_loops(site: str) -> None:
    source_valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    target_valid = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    valid = valid_positions(site, source_valid, target_valid)
    weights = sparse_weights(3, 4, *valid.shape[1:], seed=1) * valid[:, None]
    statistics = AttentionStatistics()
    for sentence in range(3):  # streamed: a batch a sentence
        statistics.add(site, 2, weights[sentence : sentence + 1], valid[sentence : sentence + 1])
    found = statistics.layers()[0]
    for name, expected in brute_force(weights, valid).items():
        assert getattr(found, name) == pytest.approx(expected, abs=1e-6), name
    assert (found.site, found.layer, found.heads) == (site, 2, 4)


def test_softmax_has_no_zeros_and_no_null_rows() -> None:
    weights = torch.randn(4, 8, 6, 7).softmax(-1)
    found = statistics_of(weights, everything_valid(weights))
    assert found.sparsity == (0.0,) * 8
    assert found.null_rate == (0.0,) * 8
    assert found.mass == pytest.approx((1.0,) * 8, abs=1e-6)


def test_identity_heads_see_one_key_and_agree() -> None:
    weights = torch.eye(5).expand(2, 3, 5, 5)
    found = statistics_of(weights, everything_valid(weights))
    assert found.sparsity == pytest.approx((0.8,) * 3)
    assert found.entropy == pytest.approx((0.0,) * 3)
    assert found.diversity == pytest.approx(0.0, abs=1e-7)


def test_uniform_head_has_the_largest_entropy() -> None:
    weights = torch.full((1, 1, 4, 6), 1 / 6)
    found = statistics_of(weights, everything_valid(weights))
    assert found.entropy[0] == pytest.approx(math.log(6))
    assert found.sparsity == (0.0,)
    assert found.diversity is None  # one head has nothing to differ from


def test_all_null_heads_have_no_entropy_and_no_diversity() -> None:
    weights = torch.zeros(2, 2, 3, 4)
    found = statistics_of(weights, everything_valid(weights))
    assert found.sparsity == found.null_rate == (1.0, 1.0)
    assert found.mass == (0.0, 0.0)
    assert found.entropy == (None, None)
    assert found.diversity is None
    assert (found.diversity_queries, found.diversity_null_rows) == (0, 12)
    assert found.diversity_softmax == pytest.approx(0.0, abs=1e-7)  # null rows become uniform, all alike


def test_heads_on_separate_diagonals_are_as_diverse_as_can_be() -> None:
    heads, length = 4, 6
    weights = torch.stack([torch.eye(length).roll(head, 1) for head in range(heads)])[None]
    found = statistics_of(weights, everything_valid(weights))
    assert found.diversity == pytest.approx(math.log(heads), abs=1e-6)


def test_a_null_head_is_left_out_and_counted() -> None:
    first, second = torch.eye(3), torch.eye(3).roll(1, 1)
    weights = torch.stack([first, second, torch.zeros(3, 3)])[None]
    found = statistics_of(weights, everything_valid(weights))
    assert found.diversity == pytest.approx(math.log(2), abs=1e-6)
    assert (found.diversity_queries, found.diversity_null_rows) == (3, 3)


def test_padding_and_the_future_do_not_count() -> None:
    valid = valid_positions("decoder", torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, True, False]]))
    assert valid.tolist() == [[[True, False, False], [True, True, False], [False, False, False]]]
    weights = torch.tensor([[[[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]]])
    found = statistics_of(weights, valid)
    assert (found.queries, found.positions) == (2, 3)
    assert found.sparsity == found.null_rate == (0.0,)


def test_null_rows_are_rows_without_any_weight_on_a_valid_key() -> None:
    weights = torch.tensor([[[[0.0, 0.0], [0.3, 0.0], [0.0, 0.0]]]])
    valid = torch.tensor([[[True, True], [True, True], [False, False]]])
    assert null_rows(weights, valid).tolist() == [[[True, False, False]]]


def test_pooling_weighs_diversity_by_the_queries_it_is_defined_for() -> None:
    statistics = AttentionStatistics()
    apart = torch.stack([torch.eye(4), torch.eye(4).roll(1, 1)])[None]
    statistics.add("cross", 1, torch.zeros(1, 2, 4, 4), everything_valid(apart))
    statistics.add("cross", 0, apart, everything_valid(apart))
    statistics.add("encoder", 0, torch.eye(4).expand(1, 2, 4, 4), everything_valid(apart))
    layers = statistics.layers()
    assert [(layer.site, layer.layer) for layer in layers] == [("encoder", 0), ("cross", 0), ("cross", 1)]
    encoder, cross = pool_layers(layers)
    assert (cross["layers"], cross["null_rate"], cross["sparsity"]) == (2, 0.5, pytest.approx(7 / 8))
    assert cross["diversity"] == pytest.approx(math.log(2), abs=1e-6)
    assert encoder["diversity"] == pytest.approx(0.0, abs=1e-7)


def test_half_precision_weights_are_counted_in_float32() -> None:
    weights = torch.full((1, 1, 1, 3), 1e-7, dtype=torch.float16)
    assert statistics_of(weights, everything_valid(weights)).sparsity == (0.0,)
