#!/usr/bin/env python3
"""How much a model reads its source: likelihoods with it and with another, and words that its translations repeat.

    nmt-evaluate --model runs/a --test-set dev
    scripts/tools/source_probe.py runs/a runs/b --to NAME

The text is the development set. The numbers are kept in docs/measurements/NAME, and training_records.py makes the table
of them. Definitions:

* nll: −log p of a sub-word of the reference translation given those before it, in nats, mean over sub-words;
* nll, other source: the same with the source of the sentence that follows in the order of the references' lengths; the
  longest gets that of the shortest;
* likely: sub-words of the reference with p > ½; unlikely: those with p < 1/100;
* repeated words: those that stand in their line before (in lower case; words end at spaces), per thousand words, in the
  stored translations of the checkpoint and in the references;
* length: words of the translations over words of the references.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt_rela.analysis.teacher_forcing import EncodedPair, batch_pairs, encode_pairs
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import cli
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import PAD
from nmt_rela.generation.evaluation import stored_scores
from nmt_rela.metrics.forced_log_probs import forced_log_probs
from nmt_rela.models.transformer import Transformer
from nmt_rela.preparation.pipeline import load_prepared
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import read_json
from nmt_rela.utils.text import read_lines, read_parallel

MEASUREMENTS = Path(__file__).resolve().parents[2] / "docs/measurements"


@torch.inference_mode()
def token_nlls(model: Transformer, pairs: Sequence[EncodedPair]) -> Tensor:
    """−log p of every target sub-word of the pairs, [sub-words], in no order."""
    found = []
    for members in batch_pairs(pairs):
        source, target = (pad_sequences([getattr(pair, side) for pair in members]) for side in ("source", "target"))
        found.append(-forced_log_probs(model, source, target)[target != PAD].double())
    return torch.cat(found)


def other_sources(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """Every target with the source of another sentence, the one whose target follows in the order of lengths."""
    ordered = sorted(pairs, key=lambda pair: (len(pair.target), pair.index))
    return [
        EncodedPair(pair.index, other.source, pair.target)
        for pair, other in zip(ordered, ordered[1:] + ordered[:1], strict=True)
    ]


def repeated_words(lines: Sequence[str]) -> float:
    """Words that stand in their line before, per thousand words."""
    words = [line.lower().split() for line in lines]
    return 1000 * sum(len(line) - len(set(line)) for line in words) / max(sum(map(len, words)), 1)


def probe(run: Path, *, change: str = "") -> dict[str, Any]:
    """What is measured of a run.

    Raises the UserError of a run that cannot be read, of a development set with fewer than two sentences or without
    words, and of a checkpoint without translations of it by the search settings of the run.
    """
    directory = RunDirectory(run)
    dev = load_prepared(directory.config().data).dev
    lines = list(read_parallel(dev.source, dev.target))
    references = [target for _, target in lines]
    if len(lines) < 2 or not any(reference.split() for reference in references):
        raise UserError(f"{dev.target}: has {len(lines)} lines; needed are two, and words")
    checkpoint = directory.checkpoint().name
    entries = {(where, entry["name"]): entry for where, entry in stored_scores(directory)}
    if (checkpoint, dev.name) not in entries:
        raise UserError(
            f"{run}: {checkpoint} has no translations of {dev.name}; nmt-evaluate --test-set dev makes them"
        )
    translations = list(read_lines(run / "evaluation" / checkpoint / f"{dev.name}.txt"))
    if len(translations) != len(lines):
        raise UserError(
            f"{run}: {checkpoint} has {len(translations)} translations of the {len(lines)} lines of {dev.name}"
        )
    pairs = encode_pairs(lines, directory.load_tokenizers())
    model = directory.load_model(checkpoint).eval()
    nlls = token_nlls(model, pairs)
    found = {
        "attention": str(directory.config().model.attention),
        "checkpoint": checkpoint,
        "settings": entries[checkpoint, dev.name].get("settings"),
        "date": date.today().isoformat(),
        "torch": str(torch.__version__),
        "nll": float(nlls.mean()),
        "nll_other_source": float(token_nlls(model, other_sources(pairs)).mean()),
        "likely": float((nlls < math.log(2)).double().mean()),
        "unlikely": float((nlls > math.log(100)).double().mean()),
        "repeated_words": repeated_words(translations),
        "repeated_words_reference": repeated_words(references),
        "length": sum(len(each.split()) for each in translations) / sum(len(each.split()) for each in references),
    }
    found = {name: round(value, 5) if isinstance(value, float) else value for name, value in found.items()}
    return {"change": change, **found} if change else found


def main() -> int:
    """The script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--to", required=True, metavar="NAME", help="a directory in docs/measurements")
    parser.add_argument("--change", default="", metavar="TEXT", help="how the code differed from that of the package")
    options = parser.parse_args()
    directory = MEASUREMENTS / options.to
    present = [read_json(path) for path in directory.glob("*.json")]
    if not all(isinstance(record, dict) and "nll" in record for record in present):
        parser.error(f"--to {options.to}: holds records of another kind")
    names = [run.absolute().name for run in options.runs]
    if len(set(names)) < len(names):
        parser.error("the names of the runs, under which their numbers are kept, must differ")
    results = [probe(run, change=options.change) for run in options.runs]
    for name, result in zip(names, results, strict=True):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("source_probe", lambda _: main()))
