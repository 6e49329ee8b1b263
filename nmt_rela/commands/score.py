"""Print the model's log-probability of given translations: one number per line, in nats, end of sentence included.

``--source`` and ``--target`` are plain text with the same number of lines.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import islice

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_model_arguments, check_overrides, load_translator

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
    parser.add_argument("--target", required=True, type=cli.input_file, metavar="FILE", help="its translation")
    parser.add_argument(
        "--format",
        default="text",
        choices=("text", "jsonl"),
        help="jsonl adds the sub-words and their log-probabilities",
    )
    options = cli.parse(parser, arguments)
    check_overrides(options.overrides, ("batch_tokens",), by="scoring")

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
    tokens = 0
    while chunk := list(islice(pairs, _CHUNK)):
        for scored in translator.score([source for source, _ in chunk], [target for _, target in chunk]):
            total += scored.log_probability
            tokens += len(scored.tokens)
            print(f"{scored.log_probability:.6f}" if options.format == "text" else format_score_jsonl(scored))
    if tokens:
        LOG.info(
            "%d sub-words, %.4f nats per sub-word, perplexity %.3f", tokens, -total / tokens, math.exp(-total / tokens)
        )


if __name__ == "__main__":
    raise SystemExit(main())
