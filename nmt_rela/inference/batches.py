"""Which sentences are decoded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def in_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, longest first: padded tokens within the budget, at least one sentence
    each.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        end = start + max(1, budget // max(1, lengths[order[start]]))
        yield order[start:end]
        start = end
