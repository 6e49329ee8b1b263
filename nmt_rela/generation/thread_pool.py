"""Batches decoded side by side, one on each CPU core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Job], Result], jobs: Sequence[Job], *, threads: int) -> Iterator[tuple[Job, Result]]:
    """Every job with its result, in order; ``threads`` of them are at work at once.

    One thread per batch makes better use of cores than several threads in each of a batch's many small operations:
    nothing has to wait for the slowest part. Results are the same: PyTorch is held to one thread in each. Raises what
    ``work`` raises, after the jobs that are at work have ended.
    """
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            yield job, work(job)
        return
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def as_here(job: Job) -> Result:
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):  # which each thread has for itself
            return work(job)

    # This is the number of threads of each of ours, but also the one that threads made by others would begin with.
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, len(jobs)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from zip(jobs, pool.map(as_here, jobs), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
