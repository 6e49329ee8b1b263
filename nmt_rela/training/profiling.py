"""A trace of a few updates by torch's profiler, for Perfetto or chrome://tracing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile, schedule

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.training.distributed import DistributedContext

LOG = logging.getLogger(__name__)

#: The first updates of a process are not traced: they allocate memory and choose kernels.
_SKIPPED = 3


@contextmanager
def profile_steps(
    run: RunDirectory, updates: int, first: int, context: DistributedContext
) -> Iterator[Callable[[], None]]:
    """Trace ``updates`` updates (0: none) inside the block, a few after ``first``. The yielded function ends an update.

    Every rank writes ``profile/update_FIRST_rank_R.json``. A trace that cannot be written causes a warning.
    """
    if not updates:
        yield lambda: None
        return

    def write(trace: profile) -> None:
        path = run.profile / f"update_{first + _SKIPPED}_rank_{context.rank}.json"
        try:
            run.profile.mkdir(exist_ok=True)
            trace.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            LOG.warning("%s cannot be written (%s); training continues", path, error)
        else:
            LOG.info("%s is the trace of %d updates", path, updates)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (context.device.type == "cuda")
    plan = schedule(skip_first=_SKIPPED - 1, wait=0, warmup=1, active=updates, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as trace:
        yield trace.step
