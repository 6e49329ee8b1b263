"""Batches of sentences of similar length, and CPU threads that decode one batch each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Padded source tokens per batch below which the sentences are not divided among more threads.
MIN_BATCH_TOKENS = 128


def batch_by_tokens(lengths: Sequence[int], max_tokens: int, *, threads: int = 1) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first.

    A batch has at most ``max_tokens`` padded tokens, or one sentence. With several threads, sentences are distributed
    round-robin over groups of ``threads`` batches of about equal size, so that all threads finish at about the same
    time.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    max_tokens = max(1, max_tokens)
    total = sum(lengths)
    rounds = -(-total // (threads * max_tokens))
    batch_tokens = max(min(MIN_BATCH_TOKENS, max_tokens), -(-total // (threads * max(1, rounds))))
    start = 0
    while start < len(order):
        batch_size = max(1, batch_tokens // max(1, lengths[order[start]]))
        group = order[start : start + threads * batch_size]
        # Only the first group can be too small to divide among all threads, and then it is the only group.
        batches = min(threads, -(-len(group) // batch_size)) if start == 0 else min(threads, len(group))
        yield from (group[number::batches] for number in range(batches))
        start += len(group)


def map_in_threads(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, threads: int
) -> Iterator[tuple[Job, Result]]:
    """Every job with its result, in order, computed by ``threads`` threads.

    PyTorch uses one thread within each of them. One thread per batch uses the cores better than several threads within
    each of a batch's many small operations. Results are the same. Raises what ``function`` raises, after the running
    jobs have ended.
    """
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            yield job, function(job)
        return
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def with_autocast(job: Job) -> Result:
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):  # autocast is set per thread
            return function(job)

    # set_num_threads changes the current thread's number and the initial number of any new thread: restore it.
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, len(jobs)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from zip(jobs, pool.map(with_autocast, jobs), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
