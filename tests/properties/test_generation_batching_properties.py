"""Batches for decoding: every sentence once, within the limit, divided evenly among threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nmt_rela.generation.batching import MIN_BATCH_TOKENS, batch_by_tokens

LENGTHS = st.lists(st.integers(1, 60), max_size=300)


@given(LENGTHS, st.integers(1, 500), st.integers(1, 5))
def test_every_sentence_is_in_one_batch_within_the_budget(lengths: list[int], budget: int, threads: int) -> None:
    batches = list(batch_by_tokens(lengths, budget, threads=threads))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max(1, budget)


@given(LENGTHS, st.integers(1, 500))
def test_one_thread_goes_from_long_to_short(lengths: list[int], budget: int) -> None:
    in_order = [lengths[i] for batch in batch_by_tokens(lengths, budget) for i in batch]
    assert in_order == sorted(lengths, reverse=True)


@given(st.integers(2, 5), st.integers(1, 60), st.integers(MIN_BATCH_TOKENS, 500), st.integers(2, 2000))
def test_the_work_is_divided_evenly_among_threads(threads: int, length: int, budget: int, sentences: int) -> None:
    batches = list(batch_by_tokens([length] * sentences, budget, threads=threads))
    tokens = [length * sum(map(len, batches[hand::threads])) for hand in range(threads)]
    rounds = -(-len(batches) // threads)
    if length * sentences >= threads * MIN_BATCH_TOKENS:
        assert max(tokens) - min(tokens) <= rounds * length + length


def test_few_tokens_make_one_batch() -> None:
    assert len(list(batch_by_tokens([10] * 12, 2000, threads=4))) == 1
    assert len(list(batch_by_tokens([10] * 25, 2000, threads=4))) == 3


def test_a_round_of_batches_holds_the_same_lengths() -> None:
    lengths = list(range(1, 61)) * 20
    batches = list(batch_by_tokens(lengths, 2000, threads=2))
    for left, right in zip(batches[::2], batches[1::2], strict=True):
        assert abs(sum(lengths[i] for i in left) - sum(lengths[i] for i in right)) <= 60
