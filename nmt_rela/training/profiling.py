"""A trace of a few updates by torch's profiler, to be looked at in Perfetto or chrome://tracing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile, schedule

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.training.distributed import DistributedContext

log = logging.getLogger("nmt_rela.training")

#: The first updates of a process are not like the others: memory is fetched, kernels are chosen.
_SKIPPED = 3


@contextmanager
def profiled(run: RunDirectory, updates: int, *, first: int, ranks: DistributedContext) -> Iterator[Callable[[], None]]:
    """Trace ``updates`` updates of what is done inside, a few after ``first``, each ended by calling what is yielded.

    Every rank writes ``profile/update_FIRST_rank_R.json``. None are traced with 0. What cannot be written is warned of.
    """
    if not updates:
        yield lambda: None
        return

    def write(trace: profile) -> None:
        path = run.profile / f"update_{first + _SKIPPED}_rank_{ranks.rank}.json"
        try:
            run.profile.mkdir(exist_ok=True)
            trace.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            log.warning("%s cannot be written (%s); training goes on", path, error)
        else:
            log.info("%s is the trace of %d updates", path, updates)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (ranks.device.type == "cuda")
    plan = schedule(skip_first=_SKIPPED - 1, wait=0, warmup=1, active=updates, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as trace:
        yield trace.step
