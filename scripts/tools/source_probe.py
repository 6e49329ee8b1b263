#!/usr/bin/env python3
"""How much a model reads its source: likelihoods with it and with another, and words that its translations repeat.

    nmt-evaluate --model runs/a --test-set dev
    scripts/tools/source_probe.py runs/a runs/b --to NAME

The text is the development set. The numbers are kept in docs/measurements/NAME, and training_records.py makes the table
of them. Definitions:

* nll: −log p of a sub-word of the reference translation given those before it, in nats, mean over sub-words;
* nll, other source: the same with the source of another sentence, whose reference has about as many sub-words;
* likely: sub-words of the reference with p > ½; unlikely: those with p < 1/100;
* repeated words: of thousand words, those that stand in the same line before (in lower case; words end at spaces), in
  the stored translations of the checkpoint and in the references;
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

    Raises the UserError of a run that cannot be read, of a development set with fewer than two sentences, and of a
    checkpoint without translations of it.
    """
    directory = RunDirectory(run)
    dev = load_prepared(directory.config().data).dev
    lines = list(read_parallel(dev.source, dev.target))
    if len(lines) < 2:
        raise UserError(f"{dev.source}: has {len(lines)} sentences; another source needs two")
    checkpoint = directory.checkpoint().name
    if (checkpoint, dev.name) not in ((where, entry["name"]) for where, entry in stored_scores(directory)):
        raise UserError(
            f"{run}: {checkpoint} has no translations of {dev.name}; nmt-evaluate --test-set dev makes them"
        )
    translations = list(read_lines(run / "evaluation" / checkpoint / f"{dev.name}.txt"))
    references = [target for _, target in lines]
    pairs = encode_pairs(lines, directory.load_tokenizers())
    model = directory.load_model(checkpoint).eval()
    nlls = token_nlls(model, pairs)
    found = {
        "attention": str(directory.config().model.attention),
        "checkpoint": checkpoint,
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
    if any("nll" not in json.loads(path.read_bytes()) for path in directory.glob("*.json")):
        parser.error(f"--to {options.to}: holds records of another kind")
    if len({run.name for run in options.runs}) < len(options.runs):
        parser.error("the names of the runs, under which their numbers are kept, must differ")
    for name, result in {run.name: probe(run, change=options.change) for run in options.runs}.items():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("source_probe", lambda _: main()))
