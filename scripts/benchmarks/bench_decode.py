"""Decoding speed: sentences and output tokens per second, latency of single sentences, peak memory.

By default five models with random weights, one per attention variant, translate random sentences to a forced length,
because random weights do not end their sentences. ``--run`` (repeated, say one trained run per variant) and ``--lines``
translate text at natural length in each ``--precision``, with the search settings of the run unless
``--length-penalty`` and ``--early-stopping`` are given. With ``--forced`` runs also write a forced length: all do
the same work. ``--pytorch`` adds every model as it decodes without compiled code. ``--ctranslate2`` adds that library,
with its threads in one batch or in one batch each, as ours are: an exported model (``--ctranslate2 DIR``), or without
``--run`` the softmax model with random weights. ``--reference`` adds BLEU. Each subject has a process of its own,
because idle threads of one library disturb another. Rounds are interleaved; the table has medians, ratios to the first
subject, and peak resident memory. On a shared machine ``--threads 1 --processor-time`` is steadier than the clock.

A decoder step reads its weights and the keys and values of its sentences at least once. On a GPU, the table of forced
subjects has the fraction of the time that these reads alone would take at the rate of a memory copy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from decode_subjects import Output, Subject, subjects_of
from harness import environment, interleave, make_parser, peak_resident_bytes, print_row, summarize, write_document
from memory_bandwidth import copy_rate

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import cli
from nmt_rela.generation.device import DTYPES, resolve_batch_tokens, resolve_device
from nmt_rela.kernels.cpu.matmul_cache import limit_onednn_cache
from nmt_rela.metrics.translation import compute_scores
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.text import read_lines

#: Sentences per turn in the measurement of latency.
LATENCY_TURN = 25

#: Tokens per batch in it. One sentence is a batch in any case; the setting must be 8 or more.
LATENCY_TOKENS = 1024


class Turn(NamedTuple):
    """Seconds that a subject took, its output, and the peaks of its memory so far."""

    seconds: float
    output: Output
    peaks: dict[str, float]


#: A subject in a process of its own, with the arguments of ``Subject``.
Remote = Callable[[Sequence[int], int, int], Turn]


def in_own_process(name: str, make: Callable[[], Subject], options: argparse.Namespace) -> Remote:
    """A subject that is made and timed in a process of its own. Raises the UserError or OSError of ``make``."""
    connection, remote_end = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    context.Process(target=_serve, args=(remote_end, make, options), daemon=True).start()
    remote_end.close()

    def receive() -> Any:
        try:
            return connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{name}: its process has ended") from None

    def take_turn(indices: Sequence[int], beam_size: int, batch_tokens: int) -> Turn:
        connection.send((list(indices), beam_size, batch_tokens))
        turn: Turn = receive()
        return turn

    if (error := receive()) is not None:
        raise error
    return take_turn


def _serve(connection: Connection, make: Callable[[], Subject], options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    limit_onednn_cache(options.threads)  # as nmt-translate does
    clock = time.process_time if options.processor_time else time.perf_counter
    try:
        subject = make()
    except (UserError, OSError) as error:
        connection.send(error)
        return
    connection.send(None)
    while True:
        try:
            arguments = connection.recv()
        except EOFError:  # the benchmark has ended
            return
        start = clock()
        output = subject(*arguments)  # plain Python values, so a GPU has finished
        connection.send(Turn(clock() - start, output, peak_mebibytes()))


def peak_mebibytes() -> dict[str, float]:
    """The largest resident set of the process, and the largest allocation on the GPU."""
    peaks = {"resident_mib": round(peak_resident_bytes() / 2**20, 1)}
    if torch.cuda.is_available():
        peaks["cuda_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks


def throughput(
    subjects: dict[str, Remote],
    sentences: int,
    *,
    beam_size: int,
    batch_tokens: int,
    rounds: int,
    references: list[str] | None,
    bytes_per_second: float | None,
) -> list[dict[str, Any]]:
    """One row per subject: medians over the rounds."""
    # On a GPU, whose rate is known, everything is translated once, because other shapes need other kernels.
    warm_up = sentences if bytes_per_second else max(1, sentences // 10)
    for subject in subjects.values():
        subject(range(warm_up), beam_size, batch_tokens)
    turns = interleave(
        {name: partial(subject, range(sentences), beam_size, batch_tokens) for name, subject in subjects.items()},
        rounds,
    )
    speeds = summarize({name: [sentences / turn.seconds for turn in taken] for name, taken in turns.items()})
    rows = []
    for name, taken in turns.items():
        output, speed = taken[-1].output, speeds[name]
        tokens_per_second = output.tokens / sentences * speed.median
        fraction = None
        if output.bytes_read and bytes_per_second:
            fraction = round(output.bytes_read / bytes_per_second * speed.median / sentences, 4)
        bleu = compute_scores(output.lines, references)["bleu"] if references else None
        rows.append(
            {
                "subject": name, "beam": beam_size, "batch_tokens": batch_tokens,
                "sentences_per_second": round(speed.median, 2), "tokens_per_second": round(tokens_per_second, 1),
                "ratio": round(speed.ratio, 3), "rounds": [round(turn.seconds, 4) for turn in taken],
                "memory_read_fraction": fraction, "bleu": bleu, **taken[-1].peaks,
            }
        )  # fmt: skip
    return rows


def latency(subjects: dict[str, Remote], sentences: int, *, beam_size: int, count: int) -> list[dict[str, Any]]:
    """Milliseconds per single sentence: median and 95th percentile.

    Subjects take turns of some sentences. The first two of a turn are not counted, because threads of some libraries
    keep a core busy for a while after their work.
    """
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for start in range(0, count, LATENCY_TURN):
        turn = range(start, min(start + LATENCY_TURN, count))
        for name, subject in subjects.items():
            seconds = [subject([index % sentences], beam_size, LATENCY_TOKENS).seconds for index in (*turn[:2], *turn)]
            taken[name] += [1000 * value for value in seconds[len(turn[:2]) :]]
    return [
        {
            "subject": name, "beam": beam_size, "p50_ms": round(statistics.median(values), 2),
            "p95_ms": round(sorted(values)[max(0, -(-95 * len(values) // 100) - 1)], 2),
        }
        for name, values in taken.items()
    ]  # fmt: skip


def parse_options() -> argparse.Namespace:
    """The options, checked."""
    parser = make_parser(__doc__, rounds=3)
    variants = list(ATTENTION_VARIANTS)
    parser.add_argument("--attention", nargs="+", default=variants, choices=variants, help="models with random weights")
    parser.add_argument("--run", action="append", default=[], metavar="RUN", help="a trained run instead (repeat)")
    parser.add_argument("--lines", type=Path, metavar="FILE", help="source text for --run")
    parser.add_argument(
        "--ctranslate2", nargs="?", const="", metavar="DIR", help="time CTranslate2: with --run an exported model"
    )
    parser.add_argument("--pytorch", action="store_true", help="time models without compiled code too")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="reference of BLEU, with --run")
    parser.add_argument("--length-penalty", type=float, metavar="A", help="for --run (default: the run's)")
    parser.add_argument(
        "--early-stopping", action=argparse.BooleanOptionalAction, help="for --run (default: the run's)"
    )
    parser.add_argument("--forced", action="store_true", help="runs, too, write --length tokens per sentence")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--length", type=int, default=16, help="output tokens per sentence, where they are forced")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4], help="beam sizes")
    parser.add_argument("--batch-tokens", type=int, nargs="+", help="sizes of a batch (default: by the device)")
    parser.add_argument("--single", type=int, default=50, help="sentences for the latency (0: leave it out)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--processor-time", action="store_true", help="of all threads, instead of the time that passes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=list(DTYPES))
    sizes = {"layers": 3, "dimension": 256, "feed-forward": 1024, "heads": 4, "vocabulary": 8000}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="of the models with random weights")
    options = parser.parse_args()
    if options.run and options.lines is None:
        parser.error("--run needs --lines")
    if options.ctranslate2 is not None and bool(options.ctranslate2) != bool(options.run):
        parser.error("--ctranslate2 takes the directory of an exported model with --run, and none without")
    if options.forced and (not options.run or options.reference or options.ctranslate2 is not None):
        parser.error("--forced is for --run, without --reference and --ctranslate2")
    options.threads = options.threads or torch.get_num_threads()
    return options


def main() -> int:
    """Parse, measure, print."""
    options = parse_options()
    device = resolve_device(options.device)
    made, sentences = subjects_of(options)
    subjects = {name: in_own_process(name, make, options) for name, make in made.items()}
    document: dict[str, Any] = {
        **environment(device), "threads": options.threads, "precision": options.precision, "sentences": sentences,
        "throughput": [], "latency": [],
    }  # fmt: skip
    references = list(read_lines(options.reference))[:sentences] if options.run and options.reference else None
    rate = copy_rate(device) if device.type == "cuda" else None
    header = ["subject", "beam", "batch", "sent/s", "tokens/s", "ratio", "MiB"]
    header += ["BLEU"] * bool(references) + ["reads"] * bool(rate)
    widths = (24, 5, 8, 10, 11, 8, 8, 8, 8)[: len(header)]
    print_row(header, widths)
    for beam_size in options.beams:
        for batch_tokens in options.batch_tokens or [resolve_batch_tokens("auto", device)]:
            rows = throughput(
                subjects, sentences, beam_size=beam_size, batch_tokens=batch_tokens, rounds=options.rounds,
                references=references, bytes_per_second=rate,
            )  # fmt: skip
            document["throughput"] += rows
            for row in rows:
                cells = [row["subject"], beam_size, batch_tokens, f"{row['sentences_per_second']:.1f}"]
                cells += [f"{row['tokens_per_second']:.0f}", f"{row['ratio']:.2f}", f"{row['resident_mib']:.0f}"]
                cells += [f"{row['bleu']:.2f}"] if references else []
                cells += [f"{row['memory_read_fraction']:.0%}" if row["memory_read_fraction"] else "–"] * bool(rate)
                print_row(cells, widths)
            write_document(options.json, document)
    if options.single:
        print_row(["one sentence at a time", "beam", "p50 ms", "p95 ms"], (24, 5, 18, 11))
        for beam_size in options.beams:
            rows = latency(subjects, sentences, beam_size=beam_size, count=options.single)
            document["latency"] += rows
            for row in rows:
                print_row([row["subject"], beam_size, f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}"], (24, 5, 18, 11))
    write_document(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_decode", lambda _: main()))
