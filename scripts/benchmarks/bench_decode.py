"""Decoding speed: sentences and output tokens a second, latency of single sentences, peak memory.

By default five models with random weights, one an attention kind, translate random sentences to a forced length, as
random weights do not know when to end. With ``--run`` (repeated, say one trained run a kind) and ``--lines`` it is real
text at natural length, in each of ``--precision``, searched as the run's settings say unless ``--length-penalty`` and
``--early-stopping`` are given; with ``--forced`` runs write a forced length too, so that all do the same work. An
exported model is timed beside them with ``--ctranslate2``, where that library is installed: its threads at one batch,
or at a batch each, as ours are. With ``--reference`` the table has BLEU. Each subject has a process of its own, as the
idle threads of one library disturb another; all take turns, round by round. The table gives medians, of the rounds' own
ratios to the first subject too, and the peak of resident memory.

A step reads the decoder's weights and the keys and values of its sentences at least once. On a GPU the table says what
share of the time these readings alone would take, at the rate at which the device copies memory in the same process.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from memory_bandwidth import Reads, reads_of

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import cli
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import EOS
from nmt_rela.generation.batching import batch_by_tokens, map_in_threads
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.generation.device import prepare_for_inference, resolve_device
from nmt_rela.generation.translator import DTYPES, Precision, Translator
from nmt_rela.metrics.bleu import compute_scores
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError, UserError
from nmt_rela.utils.memory import limit_onednn_cache
from nmt_rela.utils.text import read_lines, write_lines

#: Sentences in a turn, where one is translated at a time.
LATENCY_TURN = 25


class Output(NamedTuple):
    """What a subject wrote: tokens in all, and text where it works on text."""

    tokens: int
    lines: list[str]


#: (sentences to translate, by number; beam; padded source tokens times beam in a batch) → what came out
Subject = Callable[[Sequence[int], int, int], Output]


class Turn(NamedTuple):
    """Seconds that a subject took, what came out, and the peaks of its memory so far."""

    seconds: float
    output: Output
    peaks: dict[str, float]


class Timed(NamedTuple):
    """A subject in its process, with the same arguments: a turn of it, and on a GPU what it reads."""

    take_turn: Callable[[Sequence[int], int, int], Turn]
    count_reads: Callable[[Sequence[int], int, int], Reads | None]


def random_sentences(count: int, *, vocabulary: int) -> list[list[int]]:
    """Ids with lengths like those of image captions: log-normal, 14 on average."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randn(count, generator=generator).mul(0.3).add(2.6).exp().round().clamp(3, 60).int()
    return [
        [*torch.randint(4, vocabulary, (length,), generator=generator).tolist(), EOS] for length in lengths.tolist()
    ]


def random_model(kind: str, precision: Precision, options: argparse.Namespace) -> Transformer:
    """A model with random weights."""
    torch.manual_seed(1)
    device = resolve_device(options.device)
    model = Transformer(
        options.vocabulary, options.vocabulary, attention=kind, encoder_layers=options.layers,
        decoder_layers=options.layers, d_model=options.dimension, ffn_dim=options.feed_forward,
        num_heads=options.heads, tied_embeddings="all",
    )  # fmt: skip
    return prepare_for_inference(model.to(device).eval(), DTYPES[precision], device)


def random_subject(kind: str, precision: Precision, options: argparse.Namespace) -> Subject:
    """A model with random weights on random sentences, at a forced length."""
    sentences = random_sentences(options.sentences, vocabulary=options.vocabulary)
    return forced_subject(random_model(kind, precision, options), sentences, options)


def forced_subject(model: Transformer, sentences: list[list[int]], options: argparse.Namespace) -> Subject:
    """A model that is made to write ``--length`` tokens a sentence."""
    device = resolve_device(options.device)

    def translate(numbers: Sequence[int], beam: int, batch_tokens: int) -> Output:
        chosen = [sentences[number] for number in numbers]
        lengths = [len(ids) for ids in chosen]
        threads = torch.get_num_threads() if device.type == "cpu" else 1

        def search(batch: Sequence[int]) -> int:
            with torch.inference_mode():
                source = pad_sequences([chosen[i] for i in batch]).to(device)
                state = IncrementalDecoder(model, model.encode(source), num_beams=beam, max_length=options.length)
                found = beam_search(
                    state, beam_size=beam, min_length=options.length - 1,
                    max_lengths=torch.full((len(batch),), options.length, device=device),
                )  # fmt: skip
            return sum(len(hypotheses[0].tokens) for hypotheses in found)

        batches = list(batch_by_tokens(lengths, batch_tokens // beam, threads=threads))
        return Output(sum(tokens for _, tokens in map_in_threads(search, batches, threads=threads)), [])

    return translate


def run_subject(run: str, lines: list[str], precision: Precision, options: argparse.Namespace) -> Subject:
    """A trained run, on text."""
    translator = Translator.load(run, device=options.device, precision=precision)
    if options.forced:
        return forced_subject(translator.models[0], translator.tokenizers.source.encode(lines), options)

    given = {"early_stopping": options.early_stopping, "length_penalty": options.length_penalty}
    chosen = {name: value for name, value in given.items() if value is not None}

    def translate(numbers: Sequence[int], beam: int, batch_tokens: int) -> Output:
        found = translator.translate(
            [lines[number] for number in numbers], beam_size=beam, batch_tokens=batch_tokens, **chosen
        )
        tokens = sum(len(translation.hypotheses[0].tokens) for translation in found)
        return Output(tokens, [translation.text for translation in found])

    return translate


def ctranslate2_subject(
    directory: str, lines: list[str], compute_type: str, batches: int, options: argparse.Namespace
) -> Subject:
    """An exported model in CTranslate2 with so many ``batches`` side by side, cut into sub-words by the first run's
    vocabulary; its length penalty is length^alpha.
    """
    if not (Path(directory) / "model.bin").is_file():
        raise ConfigError(
            f"{directory}: found no model.bin; accepted: what nmt-export --format ctranslate2 has written"
        )
    ctranslate2 = importlib.import_module("ctranslate2")
    run = RunDirectory(options.run[0])
    vocabularies = run.load_tokenizers()
    alpha = run.config().decoding.length_penalty if options.length_penalty is None else options.length_penalty
    target = {
        piece: id
        for id, piece in enumerate(vocabularies.target.convert_ids_to_pieces(list(range(vocabularies.target.size))))
    }
    device = resolve_device(options.device).type
    threads = {"intra_threads": options.threads // batches, "inter_threads": batches}
    engine = ctranslate2.Translator(
        directory, device=device, compute_type=compute_type, **({} if device == "cuda" else threads)
    )

    def translate(numbers: Sequence[int], beam: int, batch_tokens: int) -> Output:
        source = vocabularies.source
        pieces = [source.convert_ids_to_pieces(ids) for ids in source.encode([lines[number] for number in numbers])]
        found = engine.translate_batch(
            pieces, beam_size=beam, max_batch_size=batch_tokens // beam, batch_type="tokens", max_decoding_length=256,
            length_penalty=alpha, disable_unk=True,
        )  # fmt: skip
        best = [[target[piece] for piece in result.hypotheses[0]] for result in found]
        return Output(sum(len(ids) + 1 for ids in best), vocabularies.target.decode(best))

    return translate


def subjects_of(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Subject]], int]:
    """What is compared, by name: how to make it; and how many sentences there are."""
    if not options.run:
        return {
            f"{kind} {precision}": partial(random_subject, kind, precision, options)
            for kind in options.attention
            for precision in options.precision
        }, options.sentences
    lines = list(read_lines(options.lines))[: options.sentences]
    subjects: dict[str, Callable[[], Subject]] = {
        f"{run} {precision}": partial(run_subject, run, lines, precision, options)
        for run in options.run
        for precision in options.precision
    }
    if options.ctranslate2 and importlib.util.find_spec("ctranslate2") is None:
        print("ctranslate2 is not installed: left out", file=sys.stderr)
    elif options.ctranslate2:
        for compute_type in ("float32", "int8"):
            for batches in sorted({1, options.threads}):
                name = f"ctranslate2 {compute_type} {batches}"
                subjects[name] = partial(
                    ctranslate2_subject, options.ctranslate2, lines, compute_type, batches, options
                )
    return subjects, len(lines)


def in_its_process(name: str, make: Callable[[], Subject], options: argparse.Namespace) -> Timed:
    """A subject that is made, works and is timed in a process of its own. Raises what ``make`` does of the user's
    mistakes.
    """
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    device = resolve_device(options.device)
    context.Process(target=_serve, args=(theirs, make, options.threads, device), daemon=True).start()
    theirs.close()

    def answer() -> Any:
        try:
            return ours.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{name}: its process has ended") from None

    def ask(what: Callable[..., Any], numbers: Sequence[int], beam: int, batch_tokens: int) -> Any:
        ours.send((what, (list(numbers), beam, batch_tokens)))
        return answer()

    mistake = answer()
    if mistake is not None:
        raise mistake
    return Timed(partial(ask, _timed), partial(ask, _counted))


def _serve(connection: Connection, make: Callable[[], Subject], threads: int, device: torch.device) -> None:
    torch.set_num_threads(threads)
    limit_onednn_cache(threads)  # as nmt-translate does
    try:
        subject = make()
    except (UserError, OSError) as mistake:
        connection.send(mistake)
        return
    connection.send(None)
    while True:
        try:
            what, work = connection.recv()
        except EOFError:  # the benchmark has ended
            return
        connection.send(what(subject, work, device))


def _timed(subject: Subject, work: tuple[list[int], int, int], device: torch.device) -> Turn:
    begun = time.perf_counter()
    output = subject(*work)  # plain Python values, so that an accelerator has finished
    return Turn(time.perf_counter() - begun, output, peak_mebibytes())


def _counted(subject: Subject, work: tuple[list[int], int, int], device: torch.device) -> Reads | None:
    """None without CUDA (the caches of a CPU may hold the weights from step to step), and for what is not ours."""
    if device.type != "cuda":
        return None
    return reads_of(lambda: subject(*work), device)


def throughput(
    subjects: dict[str, Timed],
    sentences: int,
    *,
    beam: int,
    batch_tokens: int,
    rounds: int,
    references: list[str] | None,
) -> list[dict[str, Any]]:
    """One row a subject: medians over the rounds."""
    numbers = range(sentences)
    turns: dict[str, list[Turn]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject.take_turn(numbers[: max(1, sentences // 10)], beam, batch_tokens)  # warm
    names = list(subjects)
    for round_number in range(rounds):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:  # none is always the one after another
            turns[name].append(subjects[name].take_turn(numbers, beam, batch_tokens))
    reads = {name: subject.count_reads(numbers, beam, batch_tokens) for name, subject in subjects.items()}
    seconds = {name: [turn.seconds for turn in taken] for name, taken in turns.items()}
    last = {name: taken[-1] for name, taken in turns.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = seconds[names[0]]
    ratios = {
        name: statistics.median([a / b for a, b in zip(first, values, strict=True)]) for name, values in seconds.items()
    }
    return [
        {
            "subject": name, "beam": beam, "batch_tokens": batch_tokens,
            "sentences_per_second": round(sentences / median, 2),
            "tokens_per_second": round(last[name].output.tokens / median, 1),
            "ratio": round(ratios[name], 3), "rounds": [round(value, 4) for value in seconds[name]],
            "memory_share": (of := reads[name]) and round(of.bytes / of.rate / median, 4),
            "bleu": compute_scores(last[name].output.lines, references, tokenizer="13a").bleu if references else None,
            **last[name].peaks,
        }
        for name, median in medians.items()
    ]  # fmt: skip


def latency(subjects: dict[str, Timed], sentences: int, *, beam: int, count: int) -> list[dict[str, Any]]:
    """Milliseconds of one sentence at a time: median and 95th percentile.

    The subjects take turns of some sentences, the first two of which are not counted: the threads of some keep a core
    busy for a while after their work.
    """
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for start in range(0, count, LATENCY_TURN):
        turn = range(start, min(start + LATENCY_TURN, count))
        for name, subject in subjects.items():
            times = [subject.take_turn([n % sentences], beam, 1).seconds for n in (*turn[:2], *turn)]
            taken[name] += [1000 * seconds for seconds in times[len(turn[:2]) :]]
    return [
        {
            "subject": name, "beam": beam, "p50_ms": round(statistics.median(values), 2),
            "p95_ms": round(sorted(values)[max(0, -(-95 * len(values) // 100) - 1)], 2),
        }
        for name, values in taken.items()
    ]  # fmt: skip


def peak_mebibytes() -> dict[str, float]:
    """The largest resident set of the process, and the largest allocation on the GPU."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    peaks = {"resident_mib": round(resident, 1)}
    if torch.cuda.is_available():
        peaks["cuda_mib"] = round(torch.cuda.max_memory_allocated() / (1 << 20), 1)
    return peaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--attention",
        nargs="+",
        default=list(ATTENTION_VARIANTS),
        choices=ATTENTION_VARIANTS,
        help="models with random weights",
    )
    parser.add_argument("--run", action="append", default=[], metavar="RUN", help="a trained run instead (repeat)")
    parser.add_argument("--lines", type=Path, metavar="FILE", help="source text for --run")
    parser.add_argument("--ctranslate2", metavar="DIR", help="an exported model to be timed beside the runs")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="what BLEU is measured against, with --run")
    parser.add_argument("--length-penalty", type=float, metavar="A", help="for --run (default: the run's)")
    parser.add_argument(
        "--early-stopping", action=argparse.BooleanOptionalAction, help="for --run (default: the run's)"
    )
    parser.add_argument("--forced", action="store_true", help="have runs too write --length tokens a sentence")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--length", type=int, default=16, help="output tokens a sentence where they are forced")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[16_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single", type=int, default=50, help="sentences for the latency (0: leave it out)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=list(DTYPES))
    for name, default in (
        ("layers", 3),
        ("dimension", 256),
        ("feed-forward", 1024),
        ("heads", 4),
        ("vocabulary", 8000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help="of the models with random weights")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.run and options.lines is None:
        parser.error("--run needs --lines")
    if options.forced and (not options.run or options.reference or options.ctranslate2):
        parser.error("--forced is for --run, without --reference and --ctranslate2")
    options.threads = options.threads or torch.get_num_threads()
    made, sentences = subjects_of(options)
    subjects = {name: in_its_process(name, make, options) for name, make in made.items()}
    report: dict[str, Any] = {
        "torch": torch.__version__, "threads": options.threads, "precision": options.precision,
        "device": str(resolve_device(options.device)), "sentences": sentences, "throughput": [], "latency": [],
    }  # fmt: skip
    references = list(read_lines(options.reference))[:sentences] if options.run and options.reference else None
    print(
        f"{'subject':<24}{'beam':>5}{'batch':>8}{'sent/s':>10}{'tokens/s':>11}{'ratio':>8}{'MiB':>8}"
        + f"{'BLEU':>8}" * bool(references)
        + f"{'readings':>10}" * (resolve_device(options.device).type == "cuda")
    )
    for beam in options.beams:
        for batch_tokens in options.batch_tokens:
            rows = throughput(
                subjects,
                sentences,
                beam=beam,
                batch_tokens=batch_tokens,
                rounds=options.rounds,
                references=references,
            )
            report["throughput"] += rows
            for row in rows:
                print(
                    f"{row['subject']:<24}{beam:>5}{batch_tokens:>8}{row['sentences_per_second']:>10.1f}"
                    f"{row['tokens_per_second']:>11.0f}{row['ratio']:>8.2f}{row['resident_mib']:>8.0f}"
                    + (f"{row['bleu']:>8.2f}" if references else "")
                    + (f"{row['memory_share']:>10.0%}" if row["memory_share"] else ""),
                    flush=True,
                )
    if options.single:
        print(f"{'one sentence at a time':<24}{'beam':>5}{'p50 ms':>18}{'p95 ms':>11}")
        for beam in options.beams:
            rows = latency(subjects, sentences, beam=beam, count=options.single)
            report["latency"] += rows
            for row in rows:
                print(f"{row['subject']:<24}{beam:>5}{row['p50_ms']:>18.1f}{row['p95_ms']:>11.1f}", flush=True)
    if options.json is not None:
        write_lines(options.json, json.dumps(report, indent=1).split("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_decode", lambda _: main()))
