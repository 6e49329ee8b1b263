"""Which sentences are decoded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Padded source tokens that a batch has at least before cores get batches of their own.
SMALLEST = 128


def batch_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, longest first: padded tokens within the budget, at least one sentence
    each.
    """
    return batch_by_tokens_balanced(1, lengths, budget)


def batch_by_tokens_balanced(threads: int, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """The same for threads that take the next batch whenever they have done one. As many batches as there are threads
    hold sentences of the same lengths, dealt like cards, and all have about the same size: so all threads end together.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    budget = max(1, budget)
    total = sum(lengths)
    rounds = -(-total // (threads * budget))
    share = max(min(SMALLEST, budget), -(-total // (threads * max(1, rounds))))
    start = 0
    while start < len(order):
        sentences = max(1, share // max(1, lengths[order[start]]))
        group = order[start : start + threads * sentences]
        # Only the first group may be too small to be divided among all: if it is, there is no other.
        hands = min(threads, -(-len(group) // sentences)) if start == 0 else min(threads, len(group))
        yield from (group[hand::hands] for hand in range(hands))
        start += len(group)
