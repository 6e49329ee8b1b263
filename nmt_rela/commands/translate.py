"""Translate lines from stdin (or a file) to stdout: one line in, one line out, in order.

Each line is written as soon as it is translated. A blank line stays empty. A line longer than the model's maximum
length is translated in parts, with a warning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from typing import Any, BinaryIO

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import (
    MAX_WORKERS,
    add_model_arguments,
    add_search_arguments,
    load_translator,
    translator_factories,
)
from nmt_rela.generation.options import AlignmentOptions, SamplingOptions, TranslationOptions
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import name_file_in_errors
from nmt_rela.utils.text import count_lines, decode_lines, open_text, read_lines

_PAIRS = (
    "--alignment-layer needs --alignments", "--alignment-head needs --alignments",
    "--alignment-shifted needs --alignments",
    "--seed needs --sample", "--temperature needs --sample", "--top-k needs --sample", "--top-p needs --sample",
    "--candidates needs --mbr", "--candidates needs --sample",
    "--sample excludes --beam-size", "--sample excludes --early-stopping",
    "--scores excludes --n-best", "--scores excludes --format=jsonl",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-translate``."""
    return cli.run("nmt-translate", _translate, arguments)


def _translate(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    options = cli.parse(parser, arguments)
    cli.refuse_pairs(parser, options, _PAIRS)

    from nmt_rela.generation.device import worker_devices
    from nmt_rela.generation.formatting import format_jsonl, format_moses, format_text
    from nmt_rela.generation.multiprocess import translate_multiprocess
    from nmt_rela.utils.progress import ProgressBar

    overrides: dict[str, Any] = {"n_best": options.n_best or 1}
    if options.sample:
        names = ("seed", "temperature", "top_k", "top_p")
        given = {name: value for name in names if (value := getattr(options, name)) is not None}
        overrides["sampling"] = SamplingOptions(**given)
    overrides |= {name: value for name in ("mbr", "candidates") if (value := getattr(options, name)) is not None}
    if options.alignments:
        overrides["alignment"] = AlignmentOptions(
            layer=options.alignment_layer, head=options.alignment_head, shifted=options.alignment_shifted
        )
    formatter = format_jsonl if options.format == "jsonl" else format_text if options.n_best is None else format_moses
    devices = worker_devices(options.device, options.workers)
    prefixes = None if options.prefixes is None else read_lines(options.prefixes)
    if options.output and options.input and options.output.exists() and options.output.samefile(options.input):
        parser.error(f"--output {options.output}: is the input; accepted: another file")
    with _open_input(options) as stream, ExitStack() as stack:
        lines = decode_lines(stream, "stdin" if options.input is None else str(options.input), replace=True)
        if len(devices) == 1:
            translations = load_translator(options).translate_stream(lines, prefixes=prefixes, **overrides)
        else:
            factories = translator_factories(options, devices)
            translations = translate_multiprocess(factories, lines, prefixes=prefixes, **overrides)
        output: BinaryIO = sys.stdout.buffer
        if options.output is not None:
            stack.enter_context(name_file_in_errors(options.output))
            output = stack.enter_context(open(options.output, "wb"))
        # No progress bar where translations and log share a terminal.
        show_progress = options.output is not None or not sys.stdout.isatty()
        total = 0 if options.input is None else count_lines(options.input)
        with (
            closing(translations),
            ProgressBar("translating", unit="lines", total=total) if show_progress else nullcontext() as bar,
        ):
            for number, translation in enumerate(translations):
                for line in formatter(translation, number, options.scores):
                    output.write(line.encode("utf-8") + b"\n")
                output.flush()
                if bar is not None:
                    bar.advance(1)


def _parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("nmt-translate", __doc__)
    add_model_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument(
        "--workers", type=cli.number_from(1, MAX_WORKERS), metavar="N",
        help="processes that divide the lines and the cores among them (default: 1 on the CPU, one per visible GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--input", type=cli.input_file, metavar="FILE", help="read from a file instead of stdin; it may be compressed"
    )
    parser.add_argument("--output", type=cli.output_file, metavar="FILE", help="write to a file instead of stdout")
    parser.add_argument(
        "--prefixes", type=cli.input_file, metavar="FILE",
        help="what translations must begin with: whole words, one line per input line, blank for no prefix",
    )  # fmt: skip
    parser.add_argument(
        "--format", default="text", choices=("text", "jsonl"),
        help="jsonl: one object per line, with the source and every hypothesis, its scores, sub-words and alignment",
    )  # fmt: skip
    parser.add_argument(
        "--n-best", type=cli.value_of(TranslationOptions, "n_best"), metavar="N",
        help="the N best hypotheses; as text, one line each: number ||| translation ||| score",
    )  # fmt: skip
    parser.add_argument("--scores", action="store_true", help="as text: translation ||| score")
    links = parser.add_argument_group("word alignments")
    links.add_argument("--alignments", action="store_true", help="add them: … ||| i-j …, source word first, from 0")
    links.add_argument(
        "--alignment-layer", type=cli.number_from(0), metavar="N",
        help="cross-attention layer to read them from, from 0 (default: at 5/6 of the depth)",
    )  # fmt: skip
    links.add_argument(
        "--alignment-head",
        type=cli.number_from(0),
        metavar="N",
        help="attention head to read (default: mean of all heads)",
    )
    links.add_argument(
        "--alignment-shifted", action="store_true",
        help="use the step that reads the word instead of the one that predicts it",
    )  # fmt: skip
    of_sampling = partial(cli.value_of, SamplingOptions)
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--sample", action="store_true", help="sample translations instead of searching for the best")
    sampling.add_argument(
        "--seed", type=of_sampling("seed"), metavar="N", help="samples depend on it and on the line number (default: 1)"
    )
    sampling.add_argument(
        "--temperature", type=of_sampling("temperature"), metavar="T", help="divides the logits (default: 1)"
    )
    sampling.add_argument(
        "--top-k", type=of_sampling("top_k"), metavar="K", help="the K most probable tokens only (0: all)"
    )
    sampling.add_argument(
        "--top-p", type=of_sampling("top_p"), metavar="P", help="the most probable tokens of total probability P only"
    )
    mbr = parser.add_argument_group("minimum Bayes risk")
    mbr.add_argument(
        "--mbr", choices=("chrf", "bleu"),
        help="of the beam, or of samples, the candidate that agrees most with all of them by this metric",
    )  # fmt: skip
    mbr.add_argument(
        "--candidates",
        type=cli.value_of(TranslationOptions, "candidates"),
        metavar="N",
        help="samples to choose from, with --sample (default: 32)",
    )
    return parser


def _open_input(options: argparse.Namespace) -> AbstractContextManager[BinaryIO]:
    if options.input is not None:
        return open_text(options.input)
    if sys.stdin is None:
        raise UserError("stdin is closed; accepted: lines on stdin, or --input FILE")
    # Not sys.stdin, which the interpreter closes at exit, and never closed here: closing would wait for the reading
    # thread, which may wait for a line that never comes.
    return nullcontext(open(sys.stdin.fileno(), "rb", closefd=False))


if __name__ == "__main__":
    raise SystemExit(main())
