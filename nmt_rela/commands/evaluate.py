"""Translate the task's test sets and score them: BLEU and chrF of sacreBLEU, with their signatures.

``--source`` and ``--reference`` give other text. Translations and scores are written to evaluation/ in the run
directory.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_model_arguments, add_search_arguments, load_translator

if TYPE_CHECKING:
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.data.prepared_data import EvaluationSet

LOG = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-evaluate``."""
    return cli.run("nmt-evaluate", _evaluate, arguments)


def _evaluate(arguments: Sequence[str] | None) -> None:
    from nmt_rela.metrics.bleu import TOKENIZERS

    parser = cli.make_parser("nmt-evaluate", __doc__)
    add_model_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument(
        "--test-set", action="append", metavar="NAME", help="a test set of the task, or dev (default: all test sets)"
    )
    parser.add_argument("--source", type=Path, metavar="FILE", help="translate this text instead")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="its reference translation")
    parser.add_argument(
        "--tokenizer", choices=TOKENIZERS, help="tokenizer of BLEU (default: the task's; 13a with --source)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = cli.parse(parser, arguments)
    if (options.source is None) != (options.reference is None):
        parser.error("--source and --reference belong together")

    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.export.model_card import write_model_card
    from nmt_rela.generation.evaluation import evaluate
    from nmt_rela.utils.text import write_lines

    run = RunDirectory(options.model[0])
    test_sets = _test_sets(run, options)
    translator = load_translator(options)
    directory = (
        run.path / "evaluation" / (run.checkpoint(options.checkpoint).name if len(options.model) == 1 else "ensemble")
    )
    directory.mkdir(parents=True, exist_ok=True)
    report = []
    for test_set in test_sets:
        evaluation = evaluate(translator, test_set, directory)
        report.append(evaluation.as_dict())
        if not options.json:
            print(f"{test_set.name} ({evaluation.scores.sentences} sentences)")
            print("  " + "\n  ".join(evaluation.scores.lines()), flush=True)
    document = json.dumps(report, indent=1)
    write_lines(directory / "scores.json", document.split("\n"))
    if options.json:
        print(document)
    if len(options.model) == 1:
        write_model_card(run)
    LOG.info("translations and scores: %s", directory)


def _test_sets(run: RunDirectory, options: argparse.Namespace) -> list[EvaluationSet]:
    """The given text, or the chosen test sets of the run's task."""
    from nmt_rela.data.prepared_data import EvaluationSet
    from nmt_rela.preparation.pipeline import load_prepared

    if options.source is not None:
        given = {"source": options.source, "target": options.reference, "gold_alignments": None}
        return [EvaluationSet(name=options.source.name, bleu_tokenizer=options.tokenizer or "13a", **given)]
    data = load_prepared(run.config().data)
    chosen = [data.evaluation_set(name) for name in options.test_set] if options.test_set else data.tests
    return [replace(found, bleu_tokenizer=options.tokenizer or found.bleu_tokenizer) for found in chosen]


if __name__ == "__main__":
    raise SystemExit(main())
