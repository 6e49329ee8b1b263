"""Translate the task's test sets and score them: sacreBLEU and chrF, with their signatures.

Other text can be given by ``--source`` and ``--reference``. The translations are kept in the run directory, under
evaluation/.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_model_arguments, add_search_arguments, load_translator
from nmt_rela.utils.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from nmt_rela.generation.translator import Translator

log = logging.getLogger("nmt_rela")


@dataclass(frozen=True, slots=True)
class _TestSet:
    name: str
    source: Path
    reference: Path
    tokenizer: str


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
    parser.add_argument("--source", type=Path, metavar="FILE", help="text to translate instead")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="its translation by people")
    parser.add_argument(
        "--tokenizer", choices=TOKENIZERS, help="what BLEU splits words with (default: the task's; 13a with --source)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = cli.parse(parser, arguments)
    if (options.source is None) != (options.reference is None):
        parser.error("--source and --reference belong together")

    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.export.model_card import write_model_card
    from nmt_rela.utils.text import write_lines

    sets = _named_sets(options) if options.source is None else [_given_set(options)]
    translator = load_translator(options)
    directory = _output_directory(options)
    results = []
    for test in sets:
        result = _evaluate_set(translator, test, directory)
        results.append(result)
        if not options.json:
            print(f"{test.name} ({result['sentences']} sentences)")
            print("  " + "\n  ".join(result["lines"]), flush=True)
    report = [{name: value for name, value in result.items() if name != "lines"} for result in results]
    write_lines(directory / "scores.json", json.dumps(report, indent=1).split("\n"))
    if options.json:
        print(json.dumps(report, indent=1))
    if len(options.model) == 1:
        write_model_card(RunDirectory(options.model[0]))
    log.info("translations and scores: %s", directory)


def _evaluate_set(translator: Translator, test: _TestSet, directory: Path) -> dict[str, Any]:
    import time

    from nmt_rela.generation.formatting import strip_newlines
    from nmt_rela.metrics.bleu import compute_scores
    from nmt_rela.utils.progress import Progress
    from nmt_rela.utils.text import read_parallel, write_lines

    pairs = list(read_parallel(test.source, test.reference))
    start = time.perf_counter()
    with Progress(f"translating {test.name}", unit="lines", total=len(pairs)) as bar:
        translations = translator.translate([source for source, _ in pairs], progress=bar.add)
    seconds = time.perf_counter() - start
    hypotheses = [strip_newlines(translation.text) for translation in translations]
    write_lines(directory / f"{test.name}.txt", hypotheses)
    # Prepared sets are normalised already; text given by --reference is scored like them.
    references = [translator.normalize_target(reference) for _, reference in pairs]
    scores = compute_scores(hypotheses, references, tokenizer=test.tokenizer)
    log.info("%s: %.1f s, %.1f sentences/s", test.name, seconds, len(pairs) / max(seconds, 1e-9))
    return {"name": test.name, "seconds": round(seconds, 3), **scores.as_dict(), "lines": scores.lines()}


def _named_sets(options: argparse.Namespace) -> list[_TestSet]:
    """The test sets of the run's task."""
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.preparation.pipeline import load_prepared

    data = load_prepared(RunDirectory(options.model[0]).config().data)
    known = {text.name: text for text in (data.dev, *data.tests)}
    known.setdefault("dev", data.dev)
    names = options.test_set or [text.name for text in data.tests]
    for name in names:
        if name not in known:
            raise ConfigError(f"--test-set: unknown '{name}'; {did_you_mean(name, known)}")
    return [
        _TestSet(name, known[name].source, known[name].target, options.tokenizer or known[name].bleu_tokenizer)
        for name in names
    ]


def _given_set(options: argparse.Namespace) -> _TestSet:
    return _TestSet(options.source.name, options.source, options.reference, options.tokenizer or "13a")


def _output_directory(options: argparse.Namespace) -> Path:
    """evaluation/<checkpoint> in the (first) run."""
    from nmt_rela.checkpoints.run_directory import RunDirectory

    run = RunDirectory(options.model[0])
    name = run.checkpoint(options.checkpoint).name if len(options.model) == 1 else "ensemble"
    directory = run.path / "evaluation" / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


if __name__ == "__main__":
    raise SystemExit(main())
