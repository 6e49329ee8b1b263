"""Translate the task's test sets and score them: BLEU, chrF, chrF++ and TER of sacreBLEU, and COMET.

``--source`` and ``--reference`` give other text. Translations and scores are written to evaluation/ in the run
directory. Translations that are there, by the same weights and settings, are scored and not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_model_arguments, add_search_arguments, load_translator
from nmt_rela.config.loader import name_file_of_setting
from nmt_rela.utils.errors import ConfigError

if TYPE_CHECKING:
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.data.prepared_data import EvaluationSet

_PAIRS = (
    "--source needs --reference", "--reference needs --source",
    "--source excludes --test-set",
)  # fmt: skip

LOG = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-evaluate``."""
    return cli.run("nmt-evaluate", _evaluate, arguments)


def _evaluate(arguments: Sequence[str] | None) -> None:
    from nmt_rela.metrics.comet import check_metrics, load_comet
    from nmt_rela.metrics.translation import LABELS, TOKENIZERS, check_tokenizer, score_lines

    parser = cli.make_parser("nmt-evaluate", __doc__)
    add_model_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument(
        "--test-set", action="append", metavar="NAME", help="a test set of the task, or dev (default: all test sets)"
    )
    parser.add_argument("--source", type=cli.input_file, metavar="FILE", help="translate this text instead")
    parser.add_argument(
        "--reference",
        type=cli.input_file,
        action="append",
        metavar="FILE",
        help="its reference translation; may be repeated",
    )
    parser.add_argument(
        "--metrics", type=cli.list_of(cli.one_of(tuple(LABELS))), metavar="A,B",
        help="some of bleu,chrf,chrf++,ter,comet (default: evaluation.metrics of the run)",
    )  # fmt: skip
    parser.add_argument(
        "--comet-model", metavar="NAME", help="model of COMET, or its .ckpt file (default: the run's, wmt22-comet-da)"
    )
    parser.add_argument(
        "--tokenizer", choices=TOKENIZERS, help="tokenizer of BLEU (default: the task's, for the target language)"
    )
    parser.add_argument(
        "--output",
        type=cli.output_directory,
        metavar="DIR",
        help="write translations and scores there, and nothing into the run",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = cli.parse(parser, arguments)
    cli.refuse_pairs(parser, options, _PAIRS)
    if options.tokenizer:
        check_tokenizer(options.tokenizer)

    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.export.model_card import write_model_card
    from nmt_rela.generation.evaluation import (
        describe_evaluation,
        directory_of_text,
        evaluate,
        store_evaluation,
    )

    runs = [RunDirectory(path) for path in options.model]
    settings = runs[0].config().evaluation
    settings = replace(
        settings,
        metrics=tuple(options.metrics or settings.metrics),
        comet_model=options.comet_model or settings.comet_model,
    )
    if options.comet_model and "comet" not in settings.metrics:
        parser.error("--comet-model needs --metrics comet")
    check_metrics(settings.metrics, "--metrics" if options.metrics else f"{runs[0].config_file}: evaluation.metrics")
    if "comet" in settings.metrics:  # a model that is missing is found before translating
        load_comet(settings.comet_model)
    test_sets = _test_sets(runs[0], options)
    translator = load_translator(options)
    tokenizer = options.tokenizer
    if all(test_set.bleu_tokenizer == tokenizer for test_set in test_sets):
        tokenizer = None  # it is the usual one
    directory, described = describe_evaluation(
        runs, translator, checkpoint=options.checkpoint, precision=options.precision, tokenizer=tokenizer
    )
    directory = options.output or directory
    if options.source is not None:
        directory = directory_of_text(directory, test_sets[0].source)
    report = []
    for test_set in test_sets:
        if tokenizer is not None:
            test_set = replace(test_set, bleu_tokenizer=tokenizer)
        hypotheses, references, entry = evaluate(
            translator,
            test_set,
            settings,
            directory=directory,
            described=described,
            more_references=(options.reference or [])[1:],
        )
        report.append(entry)
        if not options.json:
            print(f"{test_set.name} ({entry['sentences']} sentences)")
            print("  " + "\n  ".join(score_lines(entry, settings.metrics)), flush=True)
        try:
            store_evaluation(directory, hypotheses, references, entry)
        except OSError as error:
            if options.output is not None:
                raise
            LOG.warning("%s: %s; translations and scores are not stored", directory, error.strerror)
        else:
            LOG.info("translations and scores: %s", directory)
    if options.json:
        print(json.dumps(report, indent=1))
    if len(options.model) == 1 and options.output is None:
        write_model_card(runs[0])


def _test_sets(run: RunDirectory, options: argparse.Namespace) -> list[EvaluationSet]:
    """The given text, or the chosen test sets of the run's task."""
    from nmt_rela.data.prepared_data import EvaluationSet
    from nmt_rela.preparation.pipeline import bleu_tokenizer_of, load_prepared, names_of_sets

    config = run.config().data
    if options.source is not None:
        if options.output is None and options.source.name in names_of_sets(config):
            raise ConfigError(
                f"--source: found {options.source}, which has the name of a set of the run's task; its scores would "
                f"replace that set's: rename the file, or give --output (--test-set {options.source.name} is the set)"
            )
        given = {"source": options.source.absolute(), "target": options.reference[0], "gold_alignments": None}
        return [EvaluationSet(name=options.source.name, bleu_tokenizer=bleu_tokenizer_of(config), **given)]
    with name_file_of_setting(run.config_file):
        data = load_prepared(config)
    return [data.evaluation_set(name) for name in options.test_set] if options.test_set else list(data.tests)


if __name__ == "__main__":
    raise SystemExit(main())
