"""Print the model's log-probability of given translations: one number per line, in nats, end of sentence included.

``--source`` and ``--target`` are plain text with the same number of lines. ``--n-best`` scores the candidates of a list
instead, as nmt-translate does, so that several models can rank them.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_model_arguments, check_overrides, load_translator
from nmt_rela.utils.errors import DataError

LOG = logging.getLogger("nmt_rela")

#: Lines that are sorted by length and scored at a time.
_CHUNK = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-score``."""
    return cli.run("nmt-score", _score, arguments)


def _score(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-score", __doc__)
    add_model_arguments(parser)
    parser.add_argument("--source", required=True, type=cli.input_file, metavar="FILE", help="source text")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--target", type=cli.input_file, metavar="FILE", help="its translation")
    text.add_argument(
        "--n-best", type=cli.input_file, metavar="FILE",
        help="candidates, line ||| translation ||| score: each is printed with one more score, its log-probability "
        "over the length penalty",
    )  # fmt: skip
    parser.add_argument(
        "--best", action="store_true", help="with --n-best: print the candidate of the highest mean score of each line"
    )
    parser.add_argument(
        "--format",
        default="text",
        choices=("text", "jsonl"),
        help="jsonl adds the sub-words and their log-probabilities",
    )
    options = cli.parse(parser, arguments)
    cli.refuse_pairs(parser, options, ("--best needs --n-best", "--n-best excludes --format=jsonl"))
    used = ("batch_tokens", "length_penalty") if options.n_best else ("batch_tokens",)
    check_overrides(options.overrides, used, by="scoring")
    if options.n_best:
        _score_n_best(options)
        return

    from nmt_rela.generation.formatting import format_score_jsonl
    from nmt_rela.utils.text import read_parallel

    for option, path in (("--source", options.source), ("--target", options.target)):
        if path.is_fifo():
            parser.error(f"{option} {path}: is a pipe; accepted: a file, because it is read twice")
    for _ in read_parallel(options.source, options.target):
        pass  # files of different line counts are refused before anything is printed
    pairs = read_parallel(options.source, options.target)
    translator = load_translator(options)
    total = 0.0
    tokens = first_line = 0
    while chunk := list(islice(pairs, _CHUNK)):
        sources, targets = zip(*chunk, strict=True)
        for scored in translator.score(sources, targets, first_line=first_line):
            total += scored.log_probability
            tokens += len(scored.tokens)
            print(f"{scored.log_probability:.6f}" if options.format == "text" else format_score_jsonl(scored))
        first_line += len(chunk)
    if tokens:
        LOG.info(
            "%d sub-words, %.4f nats per sub-word, perplexity %.3f", tokens, -total / tokens, math.exp(-total / tokens)
        )


def _score_n_best(options: argparse.Namespace) -> None:
    from nmt_rela.generation.decoding_step import length_penalty_factor
    from nmt_rela.generation.n_best_list import NBestEntry, best_translations, read_n_best
    from nmt_rela.utils.text import read_lines

    sources = list(read_lines(options.source))
    entries = list(read_n_best(options.n_best, lines=len(sources)))  # all of it is checked before anything is printed
    translator = load_translator(options)

    def scored() -> Iterator[NBestEntry]:
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            texts = [sources[entry.line] for entry in chunk], [entry.text for entry in chunk]
            try:
                results = translator.score(*texts, first_line=start)  # lines of the list, not of the source
            except DataError as error:
                raise DataError(f"{options.n_best}: {error}") from None
            for entry, result in zip(chunk, results, strict=True):
                penalty = length_penalty_factor(len(result.tokens), translator.options.length_penalty)
                yield replace(entry, fields=(*entry.fields, f"{result.log_probability / penalty:.6f}"))

    for line in best_translations(scored(), lines=len(sources)) if options.best else map(str, scored()):
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
