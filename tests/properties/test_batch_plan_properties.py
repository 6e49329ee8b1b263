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

from nmt_rela.data.batch_plan import BatchPlan, cut_update, plan_epoch
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
    "update_tokens": st.sampled_from([8, 50, 256, 4_096, 25_000, 60_000]),
    "seed": st.integers(0, 2**63),
    "epoch": st.integers(0, 1_000),
}


def make(lengths: tuple[Lengths, Lengths], **settings: int) -> BatchPlan:
    return plan_epoch(lengths[0], lengths[1], **settings)


def contents(plan: BatchPlan) -> list[list[int]]:
    return [plan.pairs(update).tolist() for update in range(plan.num_updates)]


@given(**PLANS)
@settings(deadline=None)
def test_every_pair_is_in_one_update_within_its_size(
    lengths: tuple[Lengths, Lengths], update_tokens: int, seed: int, epoch: int
) -> None:
    plan = make(lengths, update_tokens=update_tokens, seed=seed, epoch=epoch)
    assert sorted(index for pairs in contents(plan) for index in pairs) == list(range(len(lengths[0])))
    for pairs in contents(plan):
        for side in lengths:
            assert len(pairs) == 1 or len(pairs) * int(side[pairs].max()) <= update_tokens


@given(**PLANS)
@settings(deadline=None, max_examples=40)
def test_the_same_arguments_give_the_same_plan(
    lengths: tuple[Lengths, Lengths], update_tokens: int, seed: int, epoch: int
) -> None:
    options = {"update_tokens": update_tokens, "seed": seed, "epoch": epoch}
    first, again = make(lengths, **options), make((lengths[0].astype(np.int64), lengths[1].copy()), **options)
    assert np.array_equal(first.order, again.order)
    assert np.array_equal(first.offsets, again.offsets)


@given(**PLANS, max_batch_tokens=st.sampled_from([1, 40, 1_000, 100_000]), world_size=st.sampled_from([1, 2, 3, 8]))
@settings(deadline=None, max_examples=60)
def test_an_update_is_cut_into_micro_batches_within_their_size_for_any_number_of_ranks(
    lengths: tuple[Lengths, Lengths], update_tokens: int, seed: int, epoch: int, max_batch_tokens: int, world_size: int
) -> None:
    plan = make(lengths, update_tokens=update_tokens, seed=seed, epoch=epoch)
    for update in range(plan.num_updates):
        cut = cut_update(plan.pairs(update), *lengths, max_batch_tokens=max_batch_tokens, world_size=world_size)
        assert len(cut) == world_size
        parts = [part for rank in cut for part in rank]
        assert sorted(index for part in parts for index in part.pairs.tolist()) == sorted(plan.pairs(update).tolist())
        assert sorted(part.number for part in parts) == list(range(len(parts)))
        for part in parts:
            width = sum(int(side[part.pairs].max()) for side in lengths)
            assert len(part.pairs) == 1 or len(part.pairs) * width <= max_batch_tokens


@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
def test_ranks_have_about_equal_work(world_size: int) -> None:
    lengths = correlated(20_000)
    plan = make(lengths, update_tokens=25_000, seed=1, epoch=0)
    imbalances = []
    for update in range(plan.num_updates):
        cut = cut_update(plan.pairs(update), *lengths, max_batch_tokens=1 << 20, world_size=world_size)
        assert [len(rank) for rank in cut] == [1] * world_size  # where memory is enough, one pass
        work = [sum(len(p.pairs) * sum(int(side[p.pairs].max()) for side in lengths) for p in rank) for rank in cut]
        imbalances.append(max(work) * world_size / sum(work))
    assert np.mean(imbalances) < 1.1
    assert max(imbalances) < 1.35  # the update of the longest pairs, whose lengths differ most


def test_a_large_update_needs_little_padding_in_one_pass() -> None:
    lengths = correlated(20_000)
    plan = make(lengths, update_tokens=25_000, seed=1, epoch=0)
    assert plan.num_updates < 25
    assert plan.padding_fraction(*lengths) < 0.2


def test_a_rank_without_pairs_has_no_micro_batch() -> None:
    lengths = (np.array([5], dtype=np.int32),) * 2
    plan = make(lengths, update_tokens=100, seed=1, epoch=0)
    cut = cut_update(plan.pairs(0), *lengths, max_batch_tokens=100, world_size=3)
    assert sorted(len(rank) for rank in cut) == [0, 0, 1]


@given(**PLANS)
@settings(deadline=None, max_examples=40)
def test_the_padding_fraction_equals_a_count_of_the_tokens(
    lengths: tuple[Lengths, Lengths], update_tokens: int, seed: int, epoch: int
) -> None:
    plan = make(lengths, update_tokens=update_tokens, seed=seed, epoch=epoch)
    padded = sum(len(pairs) * max(side[pairs].tolist()) for pairs in contents(plan) for side in lengths)
    tokens = sum(int(side.sum()) for side in lengths)
    assert plan.padding_fraction(*lengths) == pytest.approx(1 - tokens / padded)


def correlated(pairs: int, *, seed: int = 0) -> tuple[Lengths, Lengths]:
    random = np.random.default_rng(seed)
    wanted = 15 * np.exp(0.4 * random.standard_normal(pairs))
    source = np.clip(wanted, 2, 200).astype(np.int32)
    return source, np.clip(wanted * random.uniform(0.7, 1.4, pairs), 2, 200).astype(np.int32)


@given(
    first=st.tuples(st.integers(0, 50), st.integers(0, 50)), second=st.tuples(st.integers(0, 50), st.integers(0, 50))
)
@settings(deadline=None, max_examples=30)
def test_another_seed_or_epoch_gives_other_updates(first: tuple[int, int], second: tuple[int, int]) -> None:
    lengths = correlated(3_000)
    one, two = (make(lengths, update_tokens=512, seed=seed, epoch=epoch) for seed, epoch in (first, second))
    if first == second:
        assert contents(one) == contents(two)
    else:
        # Not only the order of the batches differs, but who is with whom.
        common = {frozenset(batch) for batch in contents(one)} & {frozenset(batch) for batch in contents(two)}
        assert len(common) < 0.2 * one.num_updates


def test_batches_of_all_lengths_are_spread_over_the_epoch() -> None:
    source, target = correlated(20_000)
    plan = make((source, target), update_tokens=512, seed=3, epoch=0)
    longest = np.array([target[plan.pairs(update)].max() for update in range(plan.num_updates)])
    halves = np.array_split(longest, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.1 * longest.mean()


def test_plan_is_the_same_on_every_machine() -> None:
    lengths = (np.arange(1, 501, dtype=np.int32) % 37 + 1, np.arange(1, 501, dtype=np.int32) % 41 + 1)
    plan = make(lengths, update_tokens=300, seed=1, epoch=2)
    digest = hashlib.sha256(plan.order.astype("<i8").tobytes() + plan.offsets.astype("<i8").tobytes()).hexdigest()
    assert digest == "22fe096744f760e5abfffa9ec8098b066e9abcb119c4daf36dd6346460c8b439"


def test_a_pair_longer_than_an_update_is_alone() -> None:
    source = np.array([3, 3, 90, 3], dtype=np.int32)
    plan = make((source, source), update_tokens=12, seed=1, epoch=0)
    assert [2] in contents(plan)
    assert sorted(map(len, contents(plan))) == [1, 3]


def test_a_corpus_without_pairs_is_a_user_error() -> None:
    nothing = np.empty(0, dtype=np.int32)
    with pytest.raises(DataError, match="holds no pairs"):
        make((nothing, nothing), update_tokens=12, seed=1, epoch=0)


@pytest.mark.parametrize("epoch", range(4))
def test_little_padding_on_a_corpus_like_multi30k(epoch: int) -> None:
    lengths = correlated(29_000)
    plan = make(lengths, update_tokens=4_096, seed=1, epoch=epoch)
    assert plan.padding_fraction(*lengths) < 0.06


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
    tokenizer = SentencePieceTokenizer(model.getvalue(), name="multi30k")
    source, target = (np.array([len(ids) + 1 for ids in tokenizer.encode(text)], dtype=np.int32) for text in texts)
    for epoch in range(4):
        plan = make((source, target), update_tokens=4_096, seed=1, epoch=epoch)
        assert plan.padding_fraction(source, target) < 0.06
