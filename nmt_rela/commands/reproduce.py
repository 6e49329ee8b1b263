"""Reproduce a table of the paper: prepare, train the five attention variants, average, translate, analyse, report.

    nmt-reproduce wmt14 --plan                    print the commands and the size of the downloads
    nmt-reproduce wmt14                           run them; the same command again continues
    nmt-reproduce wmt14 --scale smoke             the same with tiny models, in minutes
    nmt-reproduce multi30k --attention softmax,rela-g --seeds 1,2,3
    nmt-reproduce multi30k --runs runs            report on existing runs; nothing is trained
    nmt-reproduce mine.yaml training.max_updates=20000

Each step is a command of the package, printed before it runs, so it can be repeated by hand. Finished steps are
skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from nmt_rela.commands import cli
from nmt_rela.config.schema import AttentionName
from nmt_rela.utils.errors import EXIT_DONE
from nmt_rela.utils.files import check_writable

_VARIANTS = get_args(AttentionName)
_PARTS = ("significance", "speed", "analysis")
_SCALES = ("paper", "small", "smoke")
_PAIRS = ("--gold-reversed needs --gold", "--runs excludes --scale")
#: Settings in which the runs differ, and the options that name their values.
_OWN_SETTINGS = {"run_dir": "--output DIR", "model.attention": "--attention A,B"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-reproduce``."""
    return cli.run("nmt-reproduce", _reproduce, arguments)


def _reproduce(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = cli.parse(parser, arguments)
    if options.runs is not None and options.overrides:
        parser.error(f"{options.overrides[0]}: --runs reports on runs as they are; overrides are for training")
    cli.refuse_pairs(parser, options, _PAIRS)
    for override in options.overrides:
        key = override.partition("=")[0]
        if key in _OWN_SETTINGS:
            parser.error(f"{key}: nmt-reproduce sets it for each run; accepted: {_OWN_SETTINGS[key]}")
        if key == "training.seed" and options.seeds:
            parser.error("training.seed and --seeds exclude each other")

    from nmt_rela.data.languages import are_spaced
    from nmt_rela.metrics.word_alignment import read_gold
    from nmt_rela.reproduction.experiment import existing_experiment, new_experiment
    from nmt_rela.reproduction.report import write_report
    from nmt_rela.reproduction.runner import plan_lines, run_steps
    from nmt_rela.reproduction.steps import steps_of
    from nmt_rela.utils.text import read_parallel

    if options.runs is not None:
        experiment = existing_experiment(
            options.task, options.runs, variants=options.attention, seeds=options.seeds, output=options.output
        )
    else:
        experiment = new_experiment(
            options.task, scale=options.scale or "paper", variants=options.attention, seeds=options.seeds,
            overrides=options.overrides, output=options.output,
        )  # fmt: skip
    experiment = replace(
        experiment, gold=options.gold, gold_reversed=options.gold_reversed, skip=frozenset(options.skip)
    )
    check_writable(experiment.output, is_directory=True)
    if options.gold is not None:
        source, target, links = options.gold
        if "analysis" in options.skip:
            parser.error("--gold and --skip analysis exclude each other")
        spaced = are_spaced(experiment.config.data.languages)
        read_gold(links, list(read_parallel(source, target)), reverse=options.gold_reversed, spaced=spaced)
    steps = list(steps_of(experiment))
    if options.plan:
        for line in plan_lines(experiment, steps):
            print(line)
        return EXIT_DONE
    if not options.report and (status := run_steps(experiment, steps, quiet=options.quiet)):
        return status
    print()
    for path in write_report(experiment):
        print(path)
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("nmt-reproduce", __doc__)
    parser.add_argument(
        "task", help="wmt14, wmt14-en-fr, wmt18-en-fi, wmt18-zh-en, wmt16-ro-en, multi30k, demo, or a configuration"
    )
    parser.add_argument("--scale", choices=_SCALES, help="size of models and data (default: paper)")
    parser.add_argument(
        "--attention", type=cli.list_of(cli.one_of(_VARIANTS)), default=list(_VARIANTS), metavar="A,B",
        help="some of softmax,sparsemax,entmax15,rela-i,rela-g (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=cli.list_of(cli.number_from(0)), default=[], metavar="N,N",
        help="one run per variant and seed (default: the configuration's seed)",
    )  # fmt: skip
    parser.add_argument(
        "--runs", type=cli.path, metavar="DIR", help="report on the runs in DIR instead of training any"
    )
    parser.add_argument(
        "--output",
        type=cli.output_directory,
        metavar="DIR",
        help="directory of all files (default: runs/reproduce/…, or DIR/report)",
    )
    parser.add_argument(
        "--gold", nargs=3, type=cli.input_file, metavar=("SOURCE", "TARGET", "LINKS"),
        help="text with gold word alignments (Pharaoh, source word first, from 0) for the alignment error rate",
    )  # fmt: skip
    parser.add_argument("--gold-reversed", action="store_true", help="the links have the target word first")
    parser.add_argument(
        "--skip", type=cli.list_of(cli.one_of(_PARTS)), default=[], metavar="A,B",
        help="parts of the report to leave out: some of significance,speed,analysis",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the steps and the size of the downloads, and stop")
    what.add_argument("--report", action="store_true", help="write the report from what exists, and stop")
    cli.add_overrides(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
