"""Training speed: target tokens a second of whole updates on real batches, the attention kinds taking turns.

By default the five kinds train the model of ``--config`` (its data is prepared if needed) on the same batches,
a few updates each, round by round; the table gives medians, the ratio to the first kind, and the share of the matrix
rate that this machine itself reaches, measured in the same run. The update is the trainer's own, without loading.
On a CPU the trainer's loop is then run as it is, with loading and records, for the share of an update that is neither
forward, backward nor optimiser (gradient norm and clipping are not the optimiser's).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from nmt_rela.attention.kinds import KINDS
from nmt_rela.commands import console
from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import AttentionKind, Config
from nmt_rela.corpora.prepare import prepare
from nmt_rela.data.loading import Batch, load_updates
from nmt_rela.host_memory import bound_compiled_products, keep_host_memory
from nmt_rela.storage.run_directory import RunDirectory
from nmt_rela.text import write_lines
from nmt_rela.training.distributed import join
from nmt_rela.training.trainer import Trainer


def make_trainer(config: Config, kind: str, folder: Path) -> Trainer:
    """A trainer of one kind, whose run directory is thrown away."""
    config = replace(config, run=str(folder / kind), model=replace(config.model, attention=cast(AttentionKind, kind)))
    run = RunDirectory(config.run)
    run.checkpoints.mkdir(parents=True)
    data, ranks = prepare(config.data), join(config.training.device)
    return Trainer(config, data=data, run=run, ranks=ranks, resume=None)


def wait_for(device: torch.device) -> None:
    """Let queued GPU work end."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(trainer: Trainer, updates: list[list[Batch]], first: int) -> float:
    """Time of some updates of the epoch, the first of them being number ``first``."""
    plan = trainer._plan()
    trainer.progress.cursor = first
    wait_for(trainer.ranks.device)
    start = time.perf_counter()
    for batches in updates:
        trainer.step(batches, plan)
    wait_for(trainer.ranks.device)
    return time.perf_counter() - start


def matrix_rate(precision: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a product shaped like the feed-forward block's, best of many."""
    left, right = torch.randn(4096, 1024, device=device), torch.randn(1024, 1024, device=device)
    left, right = left.to(precision), right.to(precision)
    best = float("inf")
    for _ in range(20):
        wait_for(device)
        start = time.perf_counter()
        left @ right
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * 4096 * 1024 * 1024 / best


def engine_share(config: Config, kind: str, folder: Path, *, updates: int) -> float:
    """Share of an update's time that the engine takes for itself, in the trainer's own loop on a CPU."""
    trainer = make_trainer(config, kind, folder / "loop")
    useful = 0.0
    marks: list[tuple[float, float]] = []

    def timed(act: Callable[..., Any]) -> Callable[..., Any]:
        def act_and_note(*inputs: Any, **options: Any) -> Any:
            nonlocal useful
            start = time.perf_counter()
            result = act(*inputs, **options)
            useful += time.perf_counter() - start
            return result

        return act_and_note

    def enough() -> bool:  # asked once after each update
        marks.append((time.perf_counter(), useful))
        return len(marks) > updates + 1

    with (
        mock.patch.object(trainer, "_loss", timed(trainer._loss)),
        mock.patch.object(trainer.optimizer, "step", timed(trainer.optimizer.step)),
        mock.patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward)),
    ):
        trainer.run(stop_requested=enough)
    (start, useful_before), (end, useful_after) = marks[1], marks[-1]
    return 1.0 - (useful_after - useful_before) / (end - start)


def measure(config: Config, kinds: list[str], *, updates: int, rounds: int) -> dict[str, Any]:
    """Figures of every kind, the rounds alternating."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {kind: make_trainer(config, kind, Path(folder)) for kind in kinds}
        any_trainer = next(iter(trainers.values()))
        device, precision = any_trainer.ranks.device, any_trainer.precision
        epoch = load_updates(any_trainer.corpus, any_trainer._plan(), accumulate=config.training.accumulate)
        batches = list(islice(epoch, updates * rounds))
        epoch.close()
        if len(batches) < updates * rounds:
            raise SystemExit(f"the epoch has {len(batches)} updates; --updates times --rounds must not be more")
        speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
        flops = {}
        for kind, trainer in trainers.items():
            with FlopCounterMode(display=False) as counter:
                seconds_of(trainer, batches[:1], 0)  # also the warm-up
            flops[kind] = counter.get_total_flops() / sum(batch.target_tokens for batch in batches[0])
        rates = []
        for round_number in range(rounds):
            first = round_number * updates
            part = batches[first : first + updates]
            tokens = sum(batch.target_tokens for micro_batches in part for batch in micro_batches)
            rates.append(matrix_rate(precision, device))
            turn = round_number % len(kinds)
            for kind in kinds[turn:] + kinds[:turn]:  # none is always the first after the matrix product
                speeds[kind].append(tokens / seconds_of(trainers[kind], part, first))
            any_trainer.progress.cursor = 0
        rate = statistics.median(rates)
        on_cpu = device.type == "cpu"
        share = engine_share(config, kinds[0], Path(folder), updates=updates * rounds) if on_cpu else None
    rows = []
    for kind in kinds:
        ratios = [speed / base for speed, base in zip(speeds[kind], speeds[kinds[0]], strict=True)]
        median = statistics.median(speeds[kind])
        rows.append(
            {
                "attention": kind,
                "target_tokens_per_second": median,
                "lowest": min(speeds[kind]),
                "highest": max(speeds[kind]),
                "ratio": statistics.median(ratios),
                "matrix_share": median * flops[kind] / rate,
            }
        )
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": str(precision).removeprefix("torch."),
        "matrix_gflops": rate / 1e9,
        "engine_share": share,
        "rows": rows,
    }


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml", help="the experiment (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--updates", type=int, default=5, help="updates of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args()
    config = load_config(options.config, options.overrides)
    keep_host_memory()  # as nmt-train does
    bound_compiled_products(1)
    figures = measure(config, options.kinds, updates=options.updates, rounds=options.rounds)
    print(
        f"{figures['device']}, {figures['threads']} threads, torch {figures['torch']}, {figures['precision']}; "
        f"matrix rate {figures['matrix_gflops']:.0f} GFLOP/s"
    )
    print(f"{'attention':<10} {'tokens/s':>9} {'lowest':>8} {'highest':>8} {'ratio':>6} {'of matrix rate':>15}")
    for row in figures["rows"]:
        print(
            f"{row['attention']:<10} {row['target_tokens_per_second']:>9,.0f} {row['lowest']:>8,.0f} "
            f"{row['highest']:>8,.0f} {row['ratio']:>6.2f} {row['matrix_share']:>15.0%}"
        )
    if figures["engine_share"] is not None:
        print(f"neither forward, backward nor optimiser: {figures['engine_share']:.1%} of an update's time")
    if options.json:
        write_lines(options.json, json.dumps(figures, indent=1).split("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(console.run("bench_train", lambda _: main()))
