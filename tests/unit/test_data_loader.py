"""The loader: the plan's batches as tensors, from any update on, and no thread left behind."""

from __future__ import annotations

import gc
import json
import runpy
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from id_sequences import append

from nmt_rela.data import data_loader
from nmt_rela.data.batch_plan import BatchPlan, plan_epoch
from nmt_rela.data.data_loader import Batch, collate, iterate_updates, pad_sequences
from nmt_rela.data.indexed_dataset import ParallelDataset, write_dataset
from nmt_rela.data.tokenizer import EOS, PAD

MAX_TOKENS = 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ParallelDataset:
    random = np.random.default_rng(0)
    directory = tmp_path_factory.mktemp("loading") / "corpus"
    with write_dataset(
        directory, source_vocabulary_size=50, target_vocabulary_size=60, vocabulary_fingerprint="f"
    ) as writer:
        for _ in range(300):
            append(
                writer,
                [random.integers(4, 50, random.integers(0, 12)).tolist()],
                [random.integers(4, 60, random.integers(0, 12)).tolist()],
            )
    return ParallelDataset(directory)


@pytest.fixture(scope="module")
def plan(corpus: ParallelDataset) -> BatchPlan:
    return plan_epoch(corpus.source_lengths, corpus.target_lengths, update_tokens=240, seed=1, epoch=0)


def equal(one: Batch, two: Batch) -> bool:
    return (
        torch.equal(one.source, two.source)
        and torch.equal(one.target, two.target)
        and torch.equal(one.target_positions, two.target_positions)
        and np.array_equal(one.indices, two.indices)
        and (one.source_tokens, one.target_tokens) == (two.source_tokens, two.target_tokens)
    )


def loader_threads() -> int:
    return sum(thread.name == "nmt-rela-prefetch" for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "nothing happened within five seconds"
        time.sleep(0.01)


def test_batch_holds_the_pairs_padded(corpus: ParallelDataset) -> None:
    indices = np.array([7, 3, 3, 120])
    batch = collate(corpus, indices)
    for rows, sentences in ((batch.source, corpus.sources), (batch.target, corpus.targets)):
        expected = [sentences[int(index)].tolist() for index in indices]
        longest = max(map(len, expected))
        assert rows.dtype == torch.int64
        assert rows.tolist() == [row + [PAD] * (longest - len(row)) for row in expected]
    assert batch.source_tokens == sum(len(corpus.sources[int(index)]) for index in indices)
    assert batch.target_tokens == sum(len(corpus.targets[int(index)]) for index in indices)
    assert batch.indices.tolist() == indices.tolist()
    assert batch.target_positions.tolist() == (batch.target.flatten() != PAD).nonzero()[:, 0].tolist()


def test_batch_without_sentences_has_a_column(corpus: ParallelDataset) -> None:
    batch = collate(corpus, np.empty(0, dtype=np.int32))
    assert batch.source.shape == batch.target.shape == (0, 1)
    assert (batch.source_tokens, batch.target_tokens) == (0, 0)


def test_batch_moves_as_a_whole(corpus: ParallelDataset) -> None:
    batch = collate(corpus, np.array([1, 2]))
    moved = batch.to("meta")
    assert moved.source.device.type == moved.target.device.type == "meta"
    assert moved.target_tokens == batch.target_tokens
    assert batch.source.device.type == "cpu"


def test_lines_are_padded() -> None:
    assert pad_sequences([[4, 5, EOS], [EOS]]).tolist() == [[4, 5, EOS], [EOS, PAD, PAD]]
    assert pad_sequences([]).shape == (0, 1)
    assert pad_sequences([[], []]).tolist() == [[PAD], [PAD]]
    assert pad_sequences([[4]]).dtype == torch.int64


def test_updates_are_the_plan_in_order(corpus: ParallelDataset, plan: BatchPlan) -> None:
    updates = list(iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS))
    assert len(updates) == plan.num_updates
    for number, batches in enumerate(updates):
        assert [batch.number for batch in batches] == list(range(len(batches)))
        assert np.array_equal(np.concatenate([batch.indices for batch in batches]), plan.pairs(number))
        assert all(equal(batch, collate(corpus, batch.indices)) for batch in batches)
        assert all(batch.source.numel() + batch.target.numel() <= MAX_TOKENS for batch in batches)


def test_resuming_anywhere_gives_the_suffix(corpus: ParallelDataset, plan: BatchPlan) -> None:
    whole = list(iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS))
    for first in range(plan.num_updates + 1):
        suffix = list(iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS, first_update=first))
        assert len(suffix) == plan.num_updates - first
        for update, expected in zip(suffix, whole[first:], strict=True):
            assert all(map(equal, update, expected))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("max_batch_tokens", [60, 10_000])
def test_ranks_see_each_pair_of_an_update_once(
    corpus: ParallelDataset, plan: BatchPlan, world_size: int, max_batch_tokens: int
) -> None:
    options = {"max_batch_tokens": max_batch_tokens, "world_size": world_size}
    ranks = [list(iterate_updates(corpus, plan, rank=rank, **options)) for rank in range(world_size)]
    for number in range(plan.num_updates):
        seen = [index for rank in ranks for batch in rank[number] for index in batch.indices.tolist()]
        assert sorted(seen) == sorted(plan.pairs(number).tolist())
        numbers = [batch.number for rank in ranks for batch in rank[number]]
        assert sorted(numbers) == list(range(len(numbers)))


def test_thread_ends_with_the_epoch(corpus: ParallelDataset, plan: BatchPlan) -> None:
    for _ in iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS):
        assert loader_threads() <= 1
    wait_until(lambda: loader_threads() == 0)


def test_thread_ends_when_closed_or_collected(corpus: ParallelDataset, plan: BatchPlan) -> None:
    updates = iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS, depth=1)
    next(updates)
    updates.close()
    wait_until(lambda: loader_threads() == 0)
    updates = iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS, depth=1)
    next(updates)
    del updates
    gc.collect()
    wait_until(lambda: loader_threads() == 0)


def test_at_most_the_requested_updates_are_read_ahead(
    corpus: ParallelDataset, plan: BatchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    collated = []

    def counting(*arguments: object, **options: object) -> Batch:
        collated.append(1)
        return collate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(data_loader, "collate", counting)
    updates = iterate_updates(corpus, plan, max_batch_tokens=10_000, depth=2)  # one micro-batch per update
    next(updates)
    # One delivered, two in the queue, one waiting for room in it.
    wait_until(lambda: len(collated) == 4)
    time.sleep(0.05)
    assert len(collated) == 4
    updates.close()


def test_plan_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--pairs", "3000", "--update-tokens", "500", "--directory", str(tmp_path), "--json"]
    monkeypatch.setattr("sys.argv", ["bench_plan.py", *arguments, str(tmp_path / "figures.json")])
    script = Path(__file__).resolve().parents[2] / "scripts/benchmarks/bench_plan.py"
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert ended.value.code == 0
    assert figures["pairs"] == 3_000
    assert figures["updates"] > 1
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_an_error_in_the_thread_is_raised_to_its_reader(
    corpus: ParallelDataset, plan: BatchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> Batch:
        raise OSError("the disk is gone")

    monkeypatch.setattr(data_loader, "collate", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(iterate_updates(corpus, plan, max_batch_tokens=MAX_TOKENS))
    wait_until(lambda: loader_threads() == 0)
