"""The batch plan, over many corpora: complete, within budget, even, repeatable, and thin on padding."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nmt_rela.data.batch_plan import BatchPlan, plan_epoch
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer
from nmt_rela.utils.errors import DataError

Lengths = NDArray[np.int32]


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Lengths, Lengths]:
    """Lengths of the two sides: correlated, equal, wild, or with a giant among them."""
    pairs = draw(st.integers(1, 400))
    longest = draw(st.sampled_from([1, 3, 30, 200, 100_000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    source = random.integers(1, longest + 1, pairs, dtype=np.int32)
    target = draw(
        st.sampled_from(
            [
                source,
                random.integers(1, longest + 1, pairs, dtype=np.int32),
                np.maximum(1, source + random.integers(-3, 4, pairs, dtype=np.int32)),
                np.where(np.arange(pairs) == pairs // 2, 10_000, source).astype(np.int32),
            ]
        )
    )
    return source, target


PLANS = {
    "lengths": corpora(),
    "batch_tokens": st.sampled_from([8, 50, 256, 4_096, 25_000]),
    "accumulate": st.sampled_from([1, 2, 3, 4, 8, 16]),
    "seed": st.integers(0, 2**63),
    "epoch": st.integers(0, 1_000),
}


def make(lengths: tuple[Lengths, Lengths], **settings: int) -> BatchPlan:
    return plan_epoch(lengths[0], lengths[1], **settings)


def contents(plan: BatchPlan) -> list[list[int]]:
    return [plan.batch(index).tolist() for index in range(plan.batches)]


@given(**PLANS)
@settings(deadline=None)
def test_every_pair_once_within_budget_in_whole_updates(
    lengths: tuple[Lengths, Lengths], batch_tokens: int, accumulate: int, seed: int, epoch: int
) -> None:
    plan = make(lengths, batch_tokens=batch_tokens, accumulate=accumulate, seed=seed, epoch=epoch)
    assert sorted(index for batch in contents(plan) for index in batch) == list(range(len(lengths[0])))
    for index in range(plan.batches):
        batch = plan.batch(index)
        for side in lengths:
            assert len(batch) <= 1 or len(batch) * int(side[batch].max()) <= batch_tokens
    assert plan.batches % accumulate == 0
    assert plan.batches == plan.updates * accumulate
    # Batches are empty only where there are fewer pairs than micro-batches, and no more than one update lacks.
    empty = sum(len(plan.batch(index)) == 0 for index in range(plan.batches))
    assert empty < accumulate
    assert not empty or plan.batches - empty == len(lengths[0])


@given(**PLANS)
@settings(deadline=None, max_examples=40)
def test_same_numbers_same_plan(
    lengths: tuple[Lengths, Lengths], batch_tokens: int, accumulate: int, seed: int, epoch: int
) -> None:
    options = {"batch_tokens": batch_tokens, "accumulate": accumulate, "seed": seed, "epoch": epoch}
    first, again = make(lengths, **options), make((lengths[0].astype(np.int64), lengths[1].copy()), **options)
    assert np.array_equal(first.order, again.order)
    assert np.array_equal(first.starts, again.starts)


@given(**PLANS)
@settings(deadline=None, max_examples=40)
def test_ranks_share_the_micro_batches_whatever_their_number(
    lengths: tuple[Lengths, Lengths], batch_tokens: int, accumulate: int, seed: int, epoch: int
) -> None:
    plan = make(lengths, batch_tokens=batch_tokens, accumulate=accumulate, seed=seed, epoch=epoch)
    for ranks in (ranks for ranks in (1, 2, 3, 4, 8, 16) if accumulate % ranks == 0):
        shares = [
            [first + index for first in range(0, plan.batches, accumulate) for index in range(rank, accumulate, ranks)]
            for rank in range(ranks)
        ]
        assert {len(share) for share in shares} == {plan.batches // ranks}
        assert sorted(index for share in shares for index in share) == list(range(plan.batches))


@given(**PLANS)
@settings(deadline=None, max_examples=40)
def test_padding_share_is_what_counting_cells_gives(
    lengths: tuple[Lengths, Lengths], batch_tokens: int, accumulate: int, seed: int, epoch: int
) -> None:
    plan = make(lengths, batch_tokens=batch_tokens, accumulate=accumulate, seed=seed, epoch=epoch)
    cells = sum(len(batch) * max(side[batch].tolist()) for batch in contents(plan) if batch for side in lengths)
    tokens = sum(int(side.sum()) for side in lengths)
    assert plan.padding_share(*lengths) == pytest.approx(1 - tokens / cells)


def correlated(pairs: int, *, seed: int = 0) -> tuple[Lengths, Lengths]:
    random = np.random.default_rng(seed)
    wanted = 15 * np.exp(0.4 * random.standard_normal(pairs))
    source = np.clip(wanted, 2, 200).astype(np.int32)
    return source, np.clip(wanted * random.uniform(0.7, 1.4, pairs), 2, 200).astype(np.int32)


@given(
    first=st.tuples(st.integers(0, 50), st.integers(0, 50)), second=st.tuples(st.integers(0, 50), st.integers(0, 50))
)
@settings(deadline=None, max_examples=30)
def test_other_seeds_and_epochs_other_batches(first: tuple[int, int], second: tuple[int, int]) -> None:
    lengths = correlated(3_000)
    one, two = (
        make(lengths, batch_tokens=512, accumulate=2, seed=seed, epoch=epoch) for seed, epoch in (first, second)
    )
    if first == second:
        assert contents(one) == contents(two)
    else:
        # Not only the order of the batches differs, but who is with whom.
        together = {frozenset(batch) for batch in contents(one)} & {frozenset(batch) for batch in contents(two)}
        assert len(together) < 0.2 * one.batches


def test_batches_of_all_lengths_are_spread_over_the_epoch() -> None:
    source, target = correlated(20_000)
    plan = make((source, target), batch_tokens=512, accumulate=1, seed=3, epoch=0)
    longest = np.array([target[plan.batch(index)].max() for index in range(plan.batches)])
    halves = np.array_split(longest, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.1 * longest.mean()


def test_plan_is_the_same_on_every_machine() -> None:
    lengths = (np.arange(1, 501, dtype=np.int32) % 37 + 1, np.arange(1, 501, dtype=np.int32) % 41 + 1)
    plan = make(lengths, batch_tokens=300, accumulate=4, seed=1, epoch=2)
    digest = hashlib.sha256(plan.order.astype("<i8").tobytes() + plan.starts.astype("<i8").tobytes()).hexdigest()
    assert digest == "ca9ce157f28e28f6eb0568b11463520d38700cb8d665baf90741f37f4c83192c"


def test_few_pairs_and_many_micro_batches() -> None:
    one = np.array([5], dtype=np.int32)
    plan = make((one, one), batch_tokens=100, accumulate=4, seed=1, epoch=0)
    assert sorted(len(plan.batch(index)) for index in range(plan.batches)) == [0, 0, 0, 1]
    five = np.full(5, 5, dtype=np.int32)
    plan = make((five, five), batch_tokens=100, accumulate=4, seed=1, epoch=0)
    assert sorted(len(plan.batch(index)) for index in range(plan.batches)) == [1, 1, 1, 2]


def test_over_long_pair_is_alone() -> None:
    source = np.array([3, 3, 90, 3], dtype=np.int32)
    plan = make((source, source), batch_tokens=12, accumulate=1, seed=1, epoch=0)
    assert [2] in contents(plan)
    assert sorted(map(len, contents(plan))) == [1, 3]


def test_no_pairs_is_the_users_mistake() -> None:
    nothing = np.empty(0, dtype=np.int32)
    with pytest.raises(DataError, match="holds no pairs"):
        make((nothing, nothing), batch_tokens=12, accumulate=1, seed=1, epoch=0)


@pytest.mark.parametrize("epoch", range(4))
def test_little_padding_on_a_corpus_like_multi30k(epoch: int) -> None:
    lengths = correlated(29_000)
    plan = make(lengths, batch_tokens=4_096, accumulate=4, seed=1, epoch=epoch)
    assert plan.padding_share(*lengths) < 0.06


def test_little_padding_on_multi30k(mirror: Path) -> None:
    folder = mirror / "raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
    if not (folder / "train.en.gz").is_file():
        pytest.skip(f"Multi30k not found at {folder}")
    texts = [
        gzip.decompress((folder / f"train.{side}.gz").read_bytes()).decode().rstrip("\n").split("\n")
        for side in ("en", "de")
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain(*texts),
        model_writer=model,
        vocab_size=8_000,
        model_type="bpe",
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        pad_id=PAD,
        unk_id=UNK,
        eos_id=EOS,
        bos_id=BOS,
    )
    vocabulary = SentencePieceTokenizer(model.getvalue(), name="multi30k")
    source, target = (np.array([len(ids) + 1 for ids in vocabulary.encode(text)], dtype=np.int32) for text in texts)
    for epoch in range(4):
        plan = make((source, target), batch_tokens=4_096, accumulate=4, seed=1, epoch=epoch)
        assert plan.padding_share(source, target) < 0.06
