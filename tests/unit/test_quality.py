"""Correlations of null rates with quality, and the area under the ROC curve."""

from __future__ import annotations

import numpy as np
import pytest

from nmt_rela.analysis.quality import auc, mean_ranks, null_rate_correlations, pearson, spearman


def test_correlations_have_their_known_values() -> None:
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [9, 7, 5, -100]) == pytest.approx(-1)
    # By hand: Σdxdy = 3, Σdx² = 10, Σdy² = 5.2
    assert pearson([0, 1, 2, 3, 4], [0, 2, 1, 3, 1]) == pytest.approx(3 / (10 * 5.2) ** 0.5)
    assert mean_ranks([10, 20, 10, 5]).tolist() == [2.5, 4, 2.5, 1]


def test_a_constant_side_or_two_values_have_no_correlation() -> None:
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2], [1, 2]) is None


def test_auc_counts_the_pairs_in_order_and_ties_by_half() -> None:
    assert auc([0, 0, 1], [1, 2]) == pytest.approx(5.5 / 6)
    assert auc([1, 2], [1, 2]) == 0.5


def test_null_rates_are_correlated_by_site_and_layer() -> None:
    rates = {
        ("cross", 0): np.array([[0.0, 0.2], [0.2, 0.4], [0.4, 0.6]], dtype=np.float32),
        ("cross", 1): np.zeros((3, 2), dtype=np.float32),
    }
    found = {
        (c["site"], c["layer"]): (c["pearson"], c["spearman"])
        for c in null_rate_correlations(rates, [-1.0, -2.0, -3.0])
    }
    assert found["cross", None] == (pytest.approx(-1), pytest.approx(-1))
    assert found["cross", 0] == (pytest.approx(-1), pytest.approx(-1))
    assert found["cross", 1] == (None, None)
