#!/usr/bin/env python3
"""Reproduce a table of the paper: prepare, train the five attentions, average, translate, compare, look, report.

    nmt-reproduce wmt14 --plan                    what would be done, how long and how much disk it would take
    nmt-reproduce wmt14                           do it; the same command again continues
    nmt-reproduce wmt14 --scale smoke             the same with tiny models, in minutes
    nmt-reproduce multi30k --kinds softmax,rela-g --seeds 1,2,3
    nmt-reproduce multi30k --runs runs            report on runs that exist already; nothing is trained
    nmt-reproduce mine.yaml training.max_updates=20000

Each step is a command of the package, printed before it runs, so it can be repeated by hand. What is done is skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from nmt_rela.commands import cli
from nmt_rela.config.schema import AttentionKind
from nmt_rela.utils.errors import EXIT_DONE, did_you_mean

_KINDS = get_args(AttentionKind)
_PARTS = ("significance", "speed", "analysis")
_SCALES = ("paper", "small", "smoke")


def main(arguments: Sequence[str] | None = None) -> int:
    """The script; returns the exit status."""
    return cli.run("reproduce", _reproduce, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("reproduce", __doc__)
    parser.add_argument(
        "task", help="wmt14, wmt14-en-fr, wmt18-en-fi, wmt18-zh-en, wmt16-ro-en, multi30k, demo, or a configuration"
    )
    parser.add_argument("--scale", default="paper", choices=_SCALES, help="how large (default: paper)")
    parser.add_argument(
        "--kinds", type=_listed(_one_of(_KINDS)), default=list(_KINDS), metavar="A,B",
        help="some of softmax,sparsemax,entmax15,rela-i,rela-g (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=_listed(_seed), default=[], metavar="N,N", help="a run each (default: the configuration's)"
    )
    parser.add_argument("--runs", type=Path, metavar="DIR", help="report on the runs in DIR instead of training any")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where everything goes (default: runs/reproduce/…, or DIR/report)"
    )
    parser.add_argument(
        "--gold", nargs=3, type=Path, metavar=("SOURCE", "TARGET", "LINKS"),
        help="text with gold word links (Pharaoh, source word first, from 0) for the alignment error rate",
    )  # fmt: skip
    parser.add_argument("--gold-reversed", action="store_true", help="the links have the target word first")
    parser.add_argument(
        "--skip", type=_listed(_one_of(_PARTS)), default=[], metavar="A,B",
        help="leave out of the report: some of significance,speed,analysis",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the steps, time and disk they will take, and stop")
    what.add_argument("--report", action="store_true", help="write the report from what there is, and stop")
    cli.add_overrides(parser)
    return parser


def _listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Reads a list with commas or spaces between, each item once."""
    return lambda text: list(dict.fromkeys(read(item) for item in text.replace(",", " ").split()))


def _one_of(accepted: Sequence[str]) -> Callable[[str], str]:
    def read(item: str) -> str:
        if item not in accepted:
            raise argparse.ArgumentTypeError(f"'{item}'; {did_you_mean(item, accepted)}")
        return item

    return read


def _seed(item: str) -> int:
    if not item.isdecimal():
        raise argparse.ArgumentTypeError(f"'{item}'; accepted: whole numbers from 0")
    return int(item)


def _reproduce(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = cli.parse(parser, arguments)
    if options.runs is not None and options.overrides:
        parser.error(f"{options.overrides[0]}: --runs takes runs as they are; overrides are for runs to be trained")
    if options.gold_reversed and options.gold is None:
        parser.error("--gold-reversed needs --gold")

    from dataclasses import replace

    import torch

    from nmt_rela.reproduction.experiment import Gold, adopted_experiment, new_experiment
    from nmt_rela.reproduction.report import write_report
    from nmt_rela.reproduction.runner import run_steps
    from nmt_rela.reproduction.step_state import Journal
    from nmt_rela.reproduction.steps import steps_of

    if options.runs is not None:
        experiment = adopted_experiment(
            options.task, options.runs, kinds=options.kinds, seeds=options.seeds, output=options.output
        )
    else:
        experiment = new_experiment(
            options.task, scale=options.scale, kinds=options.kinds, seeds=options.seeds, overrides=options.overrides,
            output=options.output, gpus=torch.cuda.device_count(),
        )  # fmt: skip
    gold = None
    if options.gold is not None:
        source, target, links = options.gold
        gold = Gold(source=source, target=target, links=links, is_reversed=options.gold_reversed)
    experiment = replace(experiment, gold=gold, skip=frozenset(options.skip))
    steps, journal = list(steps_of(experiment)), Journal(experiment.output / "steps")
    if options.plan:
        from nmt_rela.reproduction.cost_estimate import plan_lines

        for line in plan_lines(experiment, steps, journal):
            print(line, flush=True)
        return EXIT_DONE
    if not options.report:
        status = run_steps(experiment, steps, journal)
        if status:
            return status
    print()
    for path in write_report(experiment, journal):
        print(path)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
