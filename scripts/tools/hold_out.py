#!/usr/bin/env python3
"""Hold every Nth pair of parallel text back from training, as a test set of one's own.

    scripts/tools/hold_out.py text/train.en text/train.de --every 29 --to held

Writes ``train.LANGUAGE`` and ``heldout.LANGUAGE`` into the folder; a language is the last part of a name, .gz aside.
Lines are not repaired, so that a task file can name both parts like any other text. Text that repeats itself, like a
collection with several translations of a sentence, needs ``--disjoint``: the other part then has no sentence of the
held-out part, on either side.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import zlib
from pathlib import Path

from nmt_rela.commands import cli
from nmt_rela.utils.errors import UserError

Pair = tuple[bytes, ...]


def split_pairs(pairs: list[Pair], *, every: int, disjoint: bool = False) -> tuple[list[Pair], list[Pair]]:
    """What stays and what is held out: pairs ``every``, 2 · ``every`` and so on, counted from 1.

    ``disjoint`` drops pairs that share a sentence with a held-out one from what stays.
    """
    kept = [pair for number, pair in enumerate(pairs, 1) if number % every]
    held = pairs[every - 1 :: every]
    if disjoint:
        sides = [{line.strip() for line in side} for side in zip(*held, strict=True)]
        kept = [pair for pair in kept if not any(line.strip() in side for line, side in zip(pair, sides, strict=False))]
    return kept, held


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file, plain or compressed by gzip, each with its end."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return list(stream)
    except (OSError, EOFError, zlib.error) as error:  # the last two: compressed text that is cut or damaged
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def hold_out(texts: list[Path], *, every: int, to: Path, disjoint: bool = False) -> tuple[int, int]:
    """Write both parts of every text; returns how many pairs are held out and how many stay.

    Raises the UserError of texts that are not parallel or too short, and of files that the parts would replace.
    """
    languages = [text.name.removesuffix(".gz").rpartition(".")[2] for text in texts]
    if len(set(languages)) < len(texts):
        raise UserError(f"the texts end in {', '.join(languages)}: each needs a language of its own")
    for path in (to / f"{part}.{language}" for language in languages for part in ("train", "heldout")):
        if os.path.lexists(path):
            raise UserError(f"{path}: exists and would be replaced; --to needs another folder")
    lines = [read_lines(text) for text in texts]
    numbers = [len(text) for text in lines]
    if len(set(numbers)) > 1:
        raise UserError(f"the texts have {', '.join(map(str, numbers))} lines: parallel text has as many in each")
    if numbers[0] < every:
        raise UserError(f"the texts have {numbers[0]:,} lines: none of every {every:,} can be held out")
    kept, held = split_pairs(list(zip(*lines, strict=True)), every=every, disjoint=disjoint)
    if not kept:
        raise UserError("every pair that is not held out shares a sentence with one that is: nothing stays")
    to.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(languages):
        (to / f"train.{language}").write_bytes(b"".join(pair[side] for pair in kept))
        (to / f"heldout.{language}").write_bytes(b"".join(pair[side] for pair in held))
    return len(held), len(kept)


def main() -> int:
    """The script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT", help="one file per language, line by line")
    parser.add_argument("--every", type=int, required=True, metavar="N", help="hold out one pair of N, 2 or more")
    parser.add_argument("--disjoint", action="store_true", help="drop pairs that share a sentence with a held-out pair")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder of both parts")
    options = parser.parse_args()
    if options.every < 2:
        parser.error(f"--every is {options.every}: 2 or more")
    held, kept = hold_out(options.texts, every=options.every, to=options.to, disjoint=options.disjoint)
    print(f"{options.to}: {held:,} pairs held out, {kept:,} stay")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("hold_out", lambda _: main()))
