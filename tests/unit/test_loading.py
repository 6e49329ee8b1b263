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

from nmt_rela.data import data_loader
from nmt_rela.data.batch_plan import BatchPlan, plan_epoch
from nmt_rela.data.data_loader import Batch, collate, iterate_updates, pad_sequences
from nmt_rela.data.indexed_dataset import ParallelDataset, ParallelDatasetWriter
from nmt_rela.data.tokenizer import EOS, PAD

ACCUMULATE = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ParallelDataset:
    random = np.random.default_rng(0)
    directory = tmp_path_factory.mktemp("loading") / "corpus"
    with ParallelDatasetWriter(
        directory, source_vocabulary_size=50, target_vocabulary_size=60, vocabulary_fingerprint="f"
    ) as writer:
        for _ in range(300):
            writer.append(
                [random.integers(4, 50, random.integers(0, 12)).tolist()],
                [random.integers(4, 60, random.integers(0, 12)).tolist()],
            )
    return ParallelDataset(directory)


@pytest.fixture(scope="module")
def plan(corpus: ParallelDataset) -> BatchPlan:
    return plan_epoch(
        corpus.source_lengths, corpus.target_lengths, batch_tokens=60, accumulate=ACCUMULATE, seed=1, epoch=0
    )


def equal(one: Batch, two: Batch) -> bool:
    return (
        torch.equal(one.source, two.source)
        and torch.equal(one.target, two.target)
        and np.array_equal(one.indices, two.indices)
        and (one.source_tokens, one.target_tokens) == (two.source_tokens, two.target_tokens)
    )


def loader_threads() -> int:
    return sum(thread.name == "nmt-rela-loading" for thread in threading.enumerate())


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
    updates = list(iterate_updates(corpus, plan, accumulate=ACCUMULATE))
    assert [len(update) for update in updates] == [ACCUMULATE] * plan.updates
    loaded = [batch for update in updates for batch in update]
    assert all(equal(batch, collate(corpus, plan.batch(index))) for index, batch in enumerate(loaded))
    assert sum(batch.target_tokens for batch in loaded) == int(corpus.target_lengths.sum())


def test_resuming_anywhere_gives_the_suffix(corpus: ParallelDataset, plan: BatchPlan) -> None:
    whole = list(iterate_updates(corpus, plan, accumulate=ACCUMULATE))
    for first in range(plan.updates + 1):
        suffix = list(iterate_updates(corpus, plan, accumulate=ACCUMULATE, first_update=first))
        assert len(suffix) == plan.updates - first
        for update, expected in zip(suffix, whole[first:], strict=True):
            assert all(map(equal, update, expected))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_see_each_update_once(corpus: ParallelDataset, plan: BatchPlan, ranks: int) -> None:
    whole = list(iterate_updates(corpus, plan, accumulate=ACCUMULATE))
    shares = [
        list(iterate_updates(corpus, plan, accumulate=ACCUMULATE, rank=rank, ranks=ranks)) for rank in range(ranks)
    ]
    for number, update in enumerate(whole):
        for index, batch in enumerate(update):
            assert equal(shares[index % ranks][number][index // ranks], batch)


def test_ranks_must_divide_the_update(corpus: ParallelDataset, plan: BatchPlan) -> None:
    with pytest.raises(ValueError, match="4 micro-batches cannot be shared evenly by 3 ranks"):
        next(iterate_updates(corpus, plan, accumulate=ACCUMULATE, ranks=3))
    with pytest.raises(ValueError, match="updates of 4 micro-batches, not 2"):
        next(iterate_updates(corpus, plan, accumulate=2))


def test_thread_ends_with_the_epoch(corpus: ParallelDataset, plan: BatchPlan) -> None:
    for _ in iterate_updates(corpus, plan, accumulate=ACCUMULATE):
        assert loader_threads() <= 1
    assert loader_threads() == 0


def test_thread_ends_when_closed_or_forgotten(corpus: ParallelDataset, plan: BatchPlan) -> None:
    updates = iterate_updates(corpus, plan, accumulate=ACCUMULATE, prefetch=1)
    next(updates)
    updates.close()  # type: ignore[attr-defined]
    assert loader_threads() == 0
    updates = iterate_updates(corpus, plan, accumulate=ACCUMULATE, prefetch=1)
    next(updates)
    del updates
    gc.collect()
    assert loader_threads() == 0


def test_works_ahead_but_not_further_than_asked(
    corpus: ParallelDataset, plan: BatchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    collated = []

    def counting(*arguments: object, **options: object) -> Batch:
        collated.append(1)
        return collate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(data_loader, "collate", counting)
    updates = iterate_updates(corpus, plan, accumulate=ACCUMULATE, prefetch=2)
    next(updates)
    # One handed over, two in the queue, one waiting for room.
    wait_until(lambda: len(collated) == 4 * ACCUMULATE)
    time.sleep(0.05)
    assert len(collated) == 4 * ACCUMULATE
    updates.close()  # type: ignore[attr-defined]


def test_plan_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--pairs", "3000", "--batch-tokens", "500", "--directory", str(tmp_path), "--json"]
    monkeypatch.setattr("sys.argv", ["bench_plan.py", *arguments, str(tmp_path / "figures.json")])
    script = Path(__file__).resolve().parents[2] / "scripts/benchmarks/bench_plan.py"
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert ended.value.code == 0
    assert figures["pairs"] == 3_000
    assert figures["batches"] % 4 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_fault_in_the_thread_is_raised_where_it_is_read(
    corpus: ParallelDataset, plan: BatchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> Batch:
        raise OSError("the disk is gone")

    monkeypatch.setattr(data_loader, "collate", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(iterate_updates(corpus, plan, accumulate=ACCUMULATE))
    assert loader_threads() == 0
