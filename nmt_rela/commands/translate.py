"""Translate lines from stdin (or a file) to stdout: one line in, one line out, in order.

Each line is written as soon as it is translated. A blank line stays empty. A line longer than the model's maximum
length is translated in parts, with a warning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import (
    DECODING_OPTIONS,
    MAX_WORKERS,
    add_model_arguments,
    add_search_arguments,
    decoding_settings,
    load_translator,
    translator_factories,
)
from nmt_rela.generation.options import AlignmentOptions, SamplingOptions, Translation, TranslationOptions
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import name_file_in_errors
from nmt_rela.utils.text import count_lines, decode_lines, open_text, read_lines

_PAIRS = (
    "--alignment-layer needs --alignments", "--alignment-head needs --alignments",
    "--alignment-shifted needs --alignments",
    "--seed needs --sample", "--temperature needs --sample", "--top-k needs --sample", "--top-p needs --sample",
    "--shard needs --input",
    "--candidates needs --mbr", "--candidates needs --sample",
    "--sample excludes --beam-size", "--sample excludes --early-stopping",
    "--scores excludes --n-best", "--scores excludes --format=jsonl",
)  # fmt: skip
#: Suffixes of compressed files that are not written.
_OTHER_COMPRESSIONS = (".7z", ".br", ".lz", ".lz4", ".lzma", ".lzo", ".tgz", ".z", ".zip", ".zst", ".zstd")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-translate``."""
    return cli.run("nmt-translate", _translate, arguments)


def _translate(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    options = cli.parse(parser, arguments)
    cli.refuse_pairs(parser, options, _PAIRS)

    from nmt_rela.generation.formatting import format_jsonl, format_moses, format_text

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
    for name, path in (("input", options.input), ("prefixes", options.prefixes)):
        if options.output and path and options.output.exists() and options.output.samefile(path):
            parser.error(f"--output {options.output}: is the --{name}; accepted: another file")

    def format_lines(number: int, translations: Iterable[Translation]) -> Iterator[str]:
        for index, translation in enumerate(translations, start=number):
            yield from formatter(translation, index, options.scores)

    texts = [options.input, *([options.prefixes] if options.prefixes else [])]
    is_regular = all(path is not None and path.is_file() for path in texts)
    if is_regular and (options.output is None or options.output.is_file() or not options.output.exists()):
        _translate_file(options, overrides, format_lines)
    elif options.shard:
        parser.error("--shard: needs regular files, because the lines are counted first")
    else:
        _translate_stream(options, overrides, format_lines)


#: Output lines of translations, the first of which has a number.
_Format = Callable[[int, Iterable[Translation]], Iterator[str]]


def _translate_file(options: argparse.Namespace, overrides: dict[str, Any], format_lines: _Format) -> None:
    """A file in chunks: a shard of it, continued where an interrupted command has stopped."""
    from nmt_rela.generation.device import worker_devices
    from nmt_rela.generation.file_translation import PartialOutput, plan_chunks, read_planned_chunks
    from nmt_rela.generation.multiprocess import translate_chunks
    from nmt_rela.utils.progress import ProgressBar

    lines = count_lines(options.input)
    if options.prefixes is not None and (found := count_lines(options.prefixes)) != lines:
        raise UserError(f"--prefixes: found {found:,} lines for {lines:,} to translate; accepted: one per line")
    chunks = plan_chunks(lines, shard=options.shard or (1, 1))
    devices = worker_devices(options.device, options.workers)
    with ExitStack() as stack:
        output = None
        if options.output is not None:
            output = stack.enter_context(PartialOutput(options.output, _settings(options, lines)))
        done = output.chunks if output else 0
        parts = read_planned_chunks(options.input, chunks[done:], prefixes=options.prefixes)
        translated: Iterator[list[Translation]]
        if len(devices) == 1:
            translator = load_translator(options)
            translated = (translator.translate_chunk(part, **overrides) for part in parts)
        else:
            translated = translate_chunks(translator_factories(options, devices), parts, **overrides)
            stack.callback(translated.close)
        bar = None
        if output or not sys.stdout.isatty():  # no bar where translations and log use one terminal
            total, before = (sum(map(len, some)) for some in (chunks, chunks[:done]))
            bar = stack.enter_context(ProgressBar("translating", unit="lines", total=total, done=before))
        for chunk, translations in zip(chunks[done:], translated, strict=True):
            text = format_lines(chunk.start, translations)
            if output:
                output.append(text)
            else:
                sys.stdout.buffer.writelines(line.encode("utf-8") + b"\n" for line in text)
                sys.stdout.buffer.flush()
            if bar is not None:
                bar.advance(len(chunk))


def _settings(options: argparse.Namespace, lines: int) -> dict[str, Any]:
    """What the text of a partial output depends on, by option."""
    from nmt_rela.checkpoints.run_directory import RunDirectory

    def describe(path: Path) -> str:
        found = path.stat()
        return f"{path.resolve()} of {lines} lines, {found.st_size} bytes, {found.st_mtime_ns}"

    unused = {"output", "quiet", "threads", "workers", "device", "input", "prefixes", "shard", "model", "checkpoint"}
    unused |= {"overrides", *DECODING_OPTIONS}
    decoding = asdict(decoding_settings(options))
    del decoding["batch_tokens"]  # only the speed depends on it
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(options).items() if name not in unused}
    checkpoints = [RunDirectory(run).checkpoint(options.checkpoint).resolve() for run in options.model]
    return {
        **{name: value if isinstance(value, (int, float)) else str(value) for name, value in given.items()},
        **{f"decoding.{name}": value for name, value in decoding.items()},
        "--model": [f"{path} of {path.stat().st_mtime_ns}" for path in checkpoints],
        "--input": describe(options.input),
        "--prefixes": describe(options.prefixes) if options.prefixes else None,
        "--shard": "/".join(map(str, options.shard or (1, 1))),
    }


def _translate_stream(options: argparse.Namespace, overrides: dict[str, Any], format_lines: _Format) -> None:
    """Lines as they come: each is written as soon as it is translated."""
    from nmt_rela.generation.device import worker_devices
    from nmt_rela.generation.file_translation import open_output
    from nmt_rela.generation.multiprocess import translate_multiprocess
    from nmt_rela.utils.progress import ProgressBar

    devices = worker_devices(options.device, options.workers)
    prefixes = None if options.prefixes is None else read_lines(options.prefixes)
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
            output = stack.enter_context(open_output(options.output))
        # No progress bar where translations and log use one terminal.
        show_progress = options.output is not None or not sys.stdout.isatty()
        with closing(translations), ProgressBar("translating", unit="lines") if show_progress else nullcontext() as bar:
            for number, translation in enumerate(translations):
                output.writelines(line.encode("utf-8") + b"\n" for line in format_lines(number, [translation]))
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
    parser.add_argument(
        "--output", type=_output_file, metavar="FILE",
        help="write to a file instead of stdout; with --input the same command again continues after an interruption",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="translate part I of N of --input; the parts in order are the whole"
    )
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
        help="cross-attention layer to read them from, from 0 (default: guided in training, or at 5/6 of the depth)",
    )  # fmt: skip
    links.add_argument(
        "--alignment-head",
        type=cli.number_from(0),
        metavar="N",
        help="attention head to read (default: the guided ones, or the mean of all)",
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


def _output_file(text: str) -> Path:
    """A file that can be written. A suffix says how it is compressed; one that would be wrong is refused."""
    if Path(text).suffix.lower() in _OTHER_COMPRESSIONS:
        raise argparse.ArgumentTypeError(f"found '{text}'; accepted: .gz, .bz2, .xz, or a name of uncompressed text")
    return cli.output_file(text)


def _shard(text: str) -> tuple[int, int]:
    """I/N, with I from 1 to N."""
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise argparse.ArgumentTypeError(f"found '{text}'; accepted: I/N, with I from 1 to N, such as 2/8")


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
