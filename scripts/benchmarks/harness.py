"""What the benchmarks have in common: arguments, interleaved rounds, medians, tables, JSON documents."""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from nmt_rela.kernels.availability import gpu_backend_states, triton_problem
from nmt_rela.utils.text import write_lines

Result = TypeVar("Result")


def make_parser(description: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """A parser with ``--json`` and, where measurements are repeated, ``--rounds``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each subject (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser


def interleave(
    subjects: Mapping[str, Callable[[], Result]], rounds: int, *, warm_up: int = 0
) -> dict[str, list[Result]]:
    """What each subject returns in every round. Every round has another random order.

    So a slow phase of the machine affects all subjects, and none always follows the same one. Results of the first
    ``warm_up`` rounds are dropped.
    """
    order = random.Random(1)
    results: dict[str, list[Result]] = {name: [] for name in subjects}
    for number in range(warm_up + rounds):
        for name in order.sample(list(subjects), len(subjects)):
            result = subjects[name]()
            if number >= warm_up:
                results[name].append(result)
    return results


class Summary(NamedTuple):
    """One subject's values over the rounds."""

    median: float
    lowest: float
    highest: float
    #: Median over the rounds of the value divided by the first subject's value of the same round.
    ratio: float


def summarize(values: Mapping[str, Sequence[float]]) -> dict[str, Summary]:
    """The summary of every subject. Ratios are to the first."""
    first = next(iter(values.values()))
    return {
        name: Summary(
            statistics.median(own),
            min(own),
            max(own),
            statistics.median(value / base for value, base in zip(own, first, strict=True)),
        )
        for name, own in values.items()
    }


def seconds_of(function: Callable[[], object], device: torch.device | None = None, *, calls: int = 1) -> float:
    """The mean duration of ``calls`` calls in a row. A GPU, which works through them as a queue, uses its own clock."""
    if device is None or device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def peak_resident_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """The largest resident set that this process has had (or its largest child)."""
    return resource.getrusage(who).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """The machine, the versions, the command and the date: the head of every document."""
    on_gpu = device is not None and device.type == "cuda"
    gpu = {}
    if on_gpu and device is not None:
        kernels: dict[str, str] = {**gpu_backend_states(device)}
        if reason := triton_problem(device):
            kernels["triton"] = reason
        gpu = {"triton": version("triton") if find_spec("triton") else None, "kernels": kernels}
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **gpu,
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
    }


def describe(document: Mapping[str, Any]) -> str:
    """The environment of a document in one line."""
    return f"{document['device']}, {document['threads']} threads, torch {document['torch']}"


def print_row(cells: Sequence[object], widths: Sequence[int]) -> None:
    """One line of a table: the first cell to the left, numbers to the right."""
    texts = [str(cell) for cell in cells]
    print(
        texts[0].ljust(widths[0])
        + "".join(text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True)),
        flush=True,
    )


def write_document(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write the results as JSON, if a path is given."""
    if path is not None:
        write_lines(path, json.dumps(document, indent=1).split("\n"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
