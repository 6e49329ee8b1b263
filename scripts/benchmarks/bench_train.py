"""Training speed: target tokens a second of whole updates on real batches, the attention kinds taking turns.

By default the five kinds train the model of ``--config`` (its data is prepared if needed) on the same batches,
a few updates each, round by round; the table gives medians, the ratio to the first kind, and the share of the matrix
rate that this machine itself reaches, measured in the same run. The update is the trainer's own, without loading.
With ``--others`` the rounds also have PyTorch's own Transformer and, where transformers is installed, its Marian, of
the same size, on the same batches, trained by the loop one would write for them.
On a CPU the trainer's loop is then run as it is, with loading and records, for the share of an update that is neither
forward, backward nor optimiser (gradient norm and clipping are not the optimiser's).
"""

from __future__ import annotations

import argparse
import json
import random
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
from baselines import OTHERS, PlainUpdates, installed
from torch.utils.flop_counter import FlopCounterMode

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import cli
from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import AttentionName, Config
from nmt_rela.data.data_loader import Batch
from nmt_rela.preparation.pipeline import prepare
from nmt_rela.training.distributed import init_distributed
from nmt_rela.training.trainer import Trainer
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.memory import disable_malloc_trimming, limit_onednn_cache
from nmt_rela.utils.text import write_lines


def make_trainer(config: Config, kind: str, folder: Path) -> Trainer:
    """A trainer of one kind, whose run directory is thrown away."""
    config = replace(
        config, run_dir=str(folder / kind), model=replace(config.model, attention=cast(AttentionName, kind))
    )
    run = RunDirectory(config.run_dir)
    run.checkpoints.mkdir(parents=True)
    data, context = prepare(config.data), init_distributed(config.training.device)
    return Trainer(config, data=data, run=run, context=context, resume=None)


def wait_for(device: torch.device) -> None:
    """Let queued GPU work end."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


#: Makes updates of these batches; the first is such a one of the epoch.
Subject = Callable[[list[list[Batch]], int], None]


def our_subject(trainer: Trainer) -> Subject:
    """The trainer's own updates."""

    def train(updates: list[list[Batch]], first: int) -> None:
        plan = trainer.plan()
        trainer.state.next_update_in_epoch = first
        for batches in updates:
            trainer.train_step(batches, plan)
        trainer.state.next_update_in_epoch = 0

    return train


def other_subject(name: str, config: Config, trainer: Trainer) -> Subject:
    """Updates of another library's model with the vocabulary and device of a trainer."""
    others = PlainUpdates(
        name, config, tokenizers=trainer.tokenizers, device=trainer.context.device,
        precision=trainer.precision,
    )  # fmt: skip

    def train(updates: list[list[Batch]], first: int) -> None:
        for batches in updates:
            others.step(batches)

    return train


def seconds_of(subject: Subject, updates: list[list[Batch]], first: int, device: torch.device) -> float:
    """Time of some updates of the epoch, the first of them being number ``first``."""
    wait_for(device)
    start = time.perf_counter()
    subject(updates, first)
    wait_for(device)
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
        mock.patch.object(trainer.objective, "forward", timed(trainer.objective.forward)),
        mock.patch.object(trainer.optimizer, "step", timed(trainer.optimizer.step)),
        mock.patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward)),
    ):
        trainer.run(stop_requested=enough)
    (start, useful_before), (end, useful_after) = marks[1], marks[-1]
    return 1.0 - (useful_after - useful_before) / (end - start)


def measure(config: Config, kinds: list[str], others: list[str], *, updates: int, rounds: int) -> dict[str, Any]:
    """Figures of every kind and of the other models, in each round in another order."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {kind: make_trainer(config, kind, Path(folder)) for kind in kinds}
        any_trainer = next(iter(trainers.values()))
        device, precision = any_trainer.context.device, any_trainer.precision
        epoch = any_trainer.updates(any_trainer.plan())
        batches = list(islice(epoch, updates * rounds))
        epoch.close()
        if len(batches) < updates * rounds:
            raise ConfigError(f"the epoch has {len(batches)} updates; --updates times --rounds must not be more")
        subjects = {kind: our_subject(trainer) for kind, trainer in trainers.items()}
        subjects |= {name: other_subject(name, config, any_trainer) for name in others}
        names = list(subjects)
        speeds: dict[str, list[float]] = {name: [] for name in names}
        flops = {}
        for name, subject in subjects.items():
            with FlopCounterMode(display=False) as counter:
                seconds_of(subject, batches[:1], 0, device)  # also the warm-up
            flops[name] = counter.get_total_flops() / sum(batch.target_tokens for batch in batches[0])
        # The kinds need the same products, but the counter does not see those of kernels in Triton.
        flops |= dict.fromkeys(kinds, max(flops[kind] for kind in kinds))
        rates = []
        order = random.Random(1)
        for round_number in range(rounds):
            first = round_number * updates
            part = batches[first : first + updates]
            tokens = sum(batch.target_tokens for micro_batches in part for batch in micro_batches)
            rates.append(matrix_rate(precision, device))
            # In any order: none is always the first after the matrix product, or has always the same one before it.
            for name in order.sample(names, len(names)):
                speeds[name].append(tokens / seconds_of(subjects[name], part, first, device))
        rate = statistics.median(rates)
        on_cpu = device.type == "cpu"
        share = engine_share(config, kinds[0], Path(folder), updates=updates * rounds) if on_cpu else None
    rows = []
    for name in names:
        ratios = [speed / base for speed, base in zip(speeds[name], speeds[names[0]], strict=True)]
        median = statistics.median(speeds[name])
        rows.append(
            {
                "attention": name,
                "target_tokens_per_second": median,
                "lowest": min(speeds[name]),
                "highest": max(speeds[name]),
                "ratio": statistics.median(ratios),
                "matrix_share": median * flops[name] / rate,
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
    parser.add_argument("--attention", nargs="+", default=list(ATTENTION_VARIANTS), choices=list(ATTENTION_VARIANTS))
    parser.add_argument("--others", action="store_true", help="time other libraries' models too")
    parser.add_argument("--updates", type=int, default=5, help="updates of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args()
    config = load_config(options.config, options.overrides)
    disable_malloc_trimming()  # as nmt-train does
    limit_onednn_cache(1)
    others = list(OTHERS) if options.others else []
    for name in others:
        if not installed(name):
            print(f"{name.split('.')[0]} is not installed: left out", file=sys.stderr)
    others = [name for name in others if installed(name)]
    figures = measure(config, options.attention, others, updates=options.updates, rounds=options.rounds)
    print(
        f"{figures['device']}, {figures['threads']} threads, torch {figures['torch']}, {figures['precision']}; "
        f"matrix rate {figures['matrix_gflops']:.0f} GFLOP/s"
    )
    print(f"{'attention':<20} {'tokens/s':>9} {'lowest':>8} {'highest':>8} {'ratio':>6} {'of matrix rate':>15}")
    for row in figures["rows"]:
        print(
            f"{row['attention']:<20} {row['target_tokens_per_second']:>9,.0f} {row['lowest']:>8,.0f} "
            f"{row['highest']:>8,.0f} {row['ratio']:>6.2f} {row['matrix_share']:>15.0%}"
        )
    if figures["engine_share"] is not None:
        print(f"neither forward, backward nor optimiser: {figures['engine_share']:.1%} of an update's time")
    if options.json:
        write_lines(options.json, json.dumps(figures, indent=1).split("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_train", lambda _: main()))
