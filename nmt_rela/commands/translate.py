"""Translate lines from stdin (or a file) to stdout: one line in, one line out, in order.

Lines appear as soon as they are translated. A blank line stays empty. Lines longer than what the model was trained with
are translated in parts, with a warning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from nmt_rela.commands import console
from nmt_rela.commands.model_options import (
    add_model_arguments,
    add_search_arguments,
    load_in_processes,
    load_translator,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-translate``."""
    return console.run("nmt-translate", _translate, arguments)


def _translate(arguments: Sequence[str] | None) -> None:
    parser = console.parser("nmt-translate", __doc__)
    add_model_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="processes that share the lines, and the cores (default: 1 on the CPU, one on every visible GPU)",
    )  # fmt: skip
    parser.add_argument("--input", type=Path, metavar="FILE", help="read from a file instead of stdin")
    parser.add_argument(
        "--prefixes", type=Path, metavar="FILE",
        help="what translations must begin with: whole words, a line for each line of input, blank for anything",
    )  # fmt: skip
    parser.add_argument(
        "--format", default="text", choices=("text", "jsonl"),
        help="jsonl: an object a line, with the source and every hypothesis, its scores, sub-words and word links",
    )  # fmt: skip
    parser.add_argument(
        "--n-best", type=int, metavar="N",
        help="the N best hypotheses; as text, a line each: number ||| translation ||| score",
    )  # fmt: skip
    parser.add_argument("--scores", action="store_true", help="as text: translation ||| score")
    links = parser.add_argument_group("word links")
    links.add_argument("--alignments", action="store_true", help="add them: … ||| i-j …, source word first, from 0")
    links.add_argument(
        "--alignment-layer", type=int, metavar="N",
        help="read them from this layer's cross-attention, from 0 (default: at 5/6 of the depth)",
    )  # fmt: skip
    links.add_argument("--alignment-head", type=int, metavar="N", help="from this head (default: mean of all heads)")
    links.add_argument(
        "--alignment-shifted", action="store_true", help="at the step that reads the word, not the one that predicts it"
    )
    draw = parser.add_argument_group("random translations")
    draw.add_argument("--sample", action="store_true", help="draw translations instead of searching the best")
    draw.add_argument(
        "--seed", type=int, default=1, metavar="N", help="what is drawn depends on it and the line number"
    )
    draw.add_argument("--temperature", type=float, default=1.0, metavar="T", help="divides the logits (default: 1)")
    draw.add_argument("--top-k", type=int, default=0, metavar="K", help="from the K most probable tokens (0: all)")
    draw.add_argument("--top-p", type=float, default=1.0, metavar="P", help="from those that hold this probability")
    options = console.parse(parser, arguments)

    from nmt_rela.generation.alignment import AlignmentOptions
    from nmt_rela.generation.device import worker_devices
    from nmt_rela.generation.formatting import json_lines, moses_lines, text_lines
    from nmt_rela.generation.multiprocess import translate_in_processes
    from nmt_rela.generation.sampling import Sampling
    from nmt_rela.utils.progress import Progress
    from nmt_rela.utils.text import decode_lines, read_lines

    sampling = None
    if options.sample:
        sampling = Sampling(
            seed=options.seed, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
        )
    align = None
    if options.alignments:
        align = AlignmentOptions(
            layer=options.alignment_layer, head=options.alignment_head, shifted=options.alignment_shifted
        )
    formatter = json_lines if options.format == "jsonl" else text_lines if options.n_best is None else moses_lines
    devices = worker_devices(options.device, options.workers)
    settings: dict[str, Any] = {"n_best": options.n_best or 1, "sampling": sampling, "align": align}
    if options.prefixes is not None:
        settings["prefixes"] = read_lines(options.prefixes)
    with _open_input(options) as stream:
        lines = decode_lines(stream, "stdin" if options.input is None else str(options.input), replace=True)
        if len(devices) == 1:
            translations = load_translator(options).translate_stream(lines, **settings)
        else:
            translations = translate_in_processes(load_in_processes(options, devices), lines, **settings)
        # A bar would tear apart the translations where both go to one terminal.
        shown = not sys.stdout.isatty()
        with (
            closing(translations),
            Progress("translating", unit="lines", total=_count_lines(options.input)) if shown else nullcontext() as bar,
        ):
            for number, translation in enumerate(translations):
                for line in formatter(translation, number, options.scores):
                    sys.stdout.buffer.write(line.encode("utf-8") + b"\n")
                sys.stdout.buffer.flush()
                if bar is not None:
                    bar.add(1)


def _open_input(options: argparse.Namespace) -> AbstractContextManager[BinaryIO]:
    if options.input is not None:
        return open(options.input, "rb")
    # Neither closed by us nor sys.stdin, which the interpreter closes at its end: the reading thread may be waiting for
    # a line that never comes, and closing would wait for the thread.
    return nullcontext(open(sys.stdin.fileno(), "rb", closefd=False))


def _count_lines(path: Path | None) -> int:
    """Lines of a file, for the progress bar's total; 0, unknown, for what can be read only once."""
    if path is None or not path.is_file():
        return 0
    with open(path, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


if __name__ == "__main__":
    raise SystemExit(main())
