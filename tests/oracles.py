"""Independent answers, in float64 and by other means than the package, to compare it with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]


def softmax_row(scores: Row) -> Row:
    """exp(s) / Σ exp(s)."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def entmax_row(scores: Row, *, exponent: float, scale: float) -> Row:
    """max(0, scale · s − τ)^exponent with sum 1, the threshold τ found by 200 bisections."""
    x = scores * scale
    low, high = x.max() - 1.0, x.max()
    for _ in range(200):
        middle = (low + high) / 2
        if (np.clip(x - middle, 0.0, None) ** exponent).sum() > 1.0:
            low = middle
        else:
            high = middle
    return np.clip(x - low, 0.0, None) ** exponent


#: Weights of one row of visible scores.
ROW_ORACLES = {
    "softmax": softmax_row,
    "sparsemax": lambda s: entmax_row(s, exponent=1.0, scale=1.0),
    "entmax15": lambda s: entmax_row(s, exponent=2.0, scale=0.5),
    "rela-i": lambda s: np.clip(s, 0.0, None),
    "rela-g": lambda s: np.clip(s, 0.0, None),
}


def attention_weights(variant: str, scores: NDArray[np.float64], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Row by row over the visible keys only: [rows, keys]."""
    weights = np.zeros_like(scores)
    for row, seen in enumerate(visible):
        if seen.any():
            weights[row, seen] = ROW_ORACLES[variant](scores[row, seen])
    return weights
