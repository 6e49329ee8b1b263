"""Batches: their size by the device, and threads: in order, one PyTorch thread each, their number restored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from toy_translator import sentences, toy_translator

from nmt_rela.generation.batching import map_in_threads
from nmt_rela.generation.device import resolve_batch_tokens


@pytest.mark.parametrize(("memory", "tokens"), [(80 << 30, 128_000), (16 << 30, 32_768), (4 << 30, 8_192)])
def test_the_automatic_size_follows_the_device(memory: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=memory))
    assert resolve_batch_tokens("auto", torch.device("cuda")) == tokens
    assert resolve_batch_tokens("auto", torch.device("cpu")) == 16_000
    assert resolve_batch_tokens(500, torch.device("cuda")) == 500


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_jobs(two_threads: None) -> None:
    def work(job: int) -> tuple[int, int]:
        time.sleep(0.02 if job == 0 else 0.0)
        return job * job, torch.get_num_threads()

    assert list(map_in_threads(work, range(5), threads=2)) == [(job, (job * job, 1)) for job in range(5)]
    assert torch.get_num_threads() == 2


def test_an_error_ends_the_work(two_threads: None) -> None:
    done = []

    def work(job: int) -> None:
        if job == 0:
            raise ValueError("job 0")
        time.sleep(0.02)
        done.append(job)

    with pytest.raises(ValueError, match="job 0"):
        list(map_in_threads(work, range(100), threads=2))
    assert len(done) < 90
    assert torch.get_num_threads() == 2


def test_threads_inherit_autocast(two_threads: None) -> None:
    def work(_: int) -> torch.dtype:
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    assert {dtype for _, dtype in map_in_threads(work, range(3), threads=2)} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {dtype for _, dtype in map_in_threads(work, range(3), threads=2)} == {torch.bfloat16}


def test_one_job_has_all_threads(two_threads: None) -> None:
    assert list(map_in_threads(lambda _: torch.get_num_threads(), [0], threads=2)) == [(0, 2)]


def test_translations_do_not_depend_on_the_number_of_threads(two_threads: None) -> None:
    lines = sentences(60, seed=3)
    translator = toy_translator(batch_tokens=80)
    side = translator.translate(lines)
    torch.set_num_threads(1)
    for left, right in zip(side, translator.translate(lines), strict=True):
        assert left.text == right.text
        assert left.hypotheses[0].score == pytest.approx(right.hypotheses[0].score, abs=1e-5)
