#!/usr/bin/env python3
"""How sure a difference of BLEU is: bootstrap confidence intervals, and a paired test against the first system.

    scripts/significance.py --reference test.de --system softmax=a.txt --system rela-g=b.txt

For BLEU and chrF of every system: the score, the 95 % interval over resampled test sets, and the probability that
resampling alone makes a difference to the first system as large as the one found (Koehn 2004; sacreBLEU's paired
bootstrap, whose random numbers are fixed by SACREBLEU_SEED).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmt_rela.commands import cli
from nmt_rela.metrics.bleu import TOKENIZERS
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.text import read_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The script; returns the exit status."""
    return cli.run("significance", _report, arguments)


def _report(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("significance", __doc__)
    parser.add_argument("--reference", required=True, type=Path, metavar="FILE", help="translations by people")
    parser.add_argument(
        "--system", required=True, action="append", type=_named, metavar="NAME=FILE",
        help="a system's translations; the first system is what the others are compared with",
    )  # fmt: skip
    parser.add_argument("--tokenizer", default="13a", choices=TOKENIZERS, help="what BLEU splits words with")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="resampled test sets (default: 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = cli.parse(parser, arguments)
    if options.samples < 2:
        parser.error(f"--samples {options.samples}: accepted: a number from 2")
    reference = list(read_lines(options.reference))
    systems = [(name, list(read_lines(file))) for name, file in options.system]
    for name, lines in systems:
        if len(lines) != len(reference):
            raise DataError(f"{name}: {len(lines)} translations for {len(reference)} references")
    rows = compare(systems, reference, tokenizer=options.tokenizer, samples=options.samples)
    print(f"{'system':<24} {'BLEU':>6} {'± 95 %':>7} {'p':>7}   {'chrF2':>6} {'± 95 %':>7} {'p':>7}")
    for row in rows:
        cells = [_cells(row[metric]) for metric in ("bleu", "chrf")]
        print(f"{row['system']:<24} {cells[0]}   {cells[1]}")
    if options.json:
        with atomic_write(options.json) as stream:
            tree = {"samples": options.samples, "tokenizer": options.tokenizer, "systems": rows}
            stream.write((json.dumps(tree, indent=1) + "\n").encode("utf-8"))


def compare(
    systems: Sequence[tuple[str, Sequence[str]]], reference: Sequence[str], *, tokenizer: str = "13a", samples: int
) -> list[dict[str, Any]]:
    """A row a system, with ``score``, ``low`` and ``high`` of the interval, and ``p`` (None for the first system)."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.significance import PairedTest

    metrics = {"BLEU": BLEU(tokenize=tokenizer), "chrF2": CHRF()}
    if len(systems) == 1:  # nothing to pair it with
        name, lines = systems[0]
        row: dict[str, Any] = {"system": name}
        for key, metric in zip(("bleu", "chrf"), metrics.values(), strict=True):
            score = metric.corpus_score(lines, [reference], n_bootstrap=samples)
            row[key] = _figures(score.score, score._mean, score._ci, None)
        return [row]
    test = PairedTest(list(systems), metrics, [reference], test_type="bs", n_samples=samples)
    found: dict[str, list[Any]] = test()[1]
    for results in (found["BLEU"], found["chrF2"]):
        for result in results[1:]:
            if result.score == results[0].score:  # the test counts larger differences only: none at all would be rare
                result.p_value = 1.0
    return [
        {
            "system": name,
            "bleu": _figures(bleu.score, bleu.mean, bleu.ci, bleu.p_value),
            "chrf": _figures(chrf.score, chrf.mean, chrf.ci, chrf.p_value),
        }
        for name, bleu, chrf in zip(found["System"], found["BLEU"], found["chrF2"], strict=True)
    ]


def _figures(score: float, mean: float, margin: float, p: float | None) -> dict[str, float | None]:
    return {
        "score": float(score),
        "low": float(mean - margin),
        "high": float(mean + margin),
        "p": None if p is None else float(p),
    }


def _cells(figures: dict[str, float]) -> str:
    p = "" if figures["p"] is None else f"{figures['p']:.4f}"
    return f"{figures['score']:>6.2f} {(figures['high'] - figures['low']) / 2:>7.2f} {p:>7}"


def _named(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=FILE")
    return name, Path(file)


if __name__ == "__main__":
    sys.exit(main())
