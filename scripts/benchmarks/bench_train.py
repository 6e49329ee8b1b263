"""Training speed: target tokens per second of whole updates on real batches, attention variants interleaved.

By default the five variants train the model of ``--config`` (its data is prepared if needed) on the same batches, a few
updates per round. The table has medians, the ratio to the first variant, and the fraction of the matmul rate of this
machine, measured in the same rounds. An update is the trainer's own, without data loading. ``--others`` adds PyTorch's
own Transformer and, if transformers is installed, its Marian, of the same size, on the same batches, in a standard
PyTorch training loop. ``--random-pairs`` takes random sentences instead of a corpus.

On a GPU every subject first trains on all batches once, so that no kernel is compiled in a round. On a CPU the
trainer's loop then runs as it is, with loading and records, to measure the fraction of an update outside forward pass,
backward pass and optimizer (gradient norm and clipping count as outside).
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import sentencepiece
import torch
from baselines import OTHERS, PlainUpdates, installed
from bench_plan import write_corpus
from harness import describe, environment, interleave, make_parser, print_row, seconds_of, summarize, write_document
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import cli
from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import AttentionName, Config
from nmt_rela.data.data_loader import Batch
from nmt_rela.data.prepared_data import EvaluationSet, PreparedData
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer, TokenizerPair
from nmt_rela.kernels.cpu.matmul_cache import keep_training_matmuls
from nmt_rela.preparation.pipeline import prepare
from nmt_rela.preparation.tokenizer_training import suitable_size
from nmt_rela.training.distributed import init_distributed
from nmt_rela.training.trainer import Trainer
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.memory import disable_malloc_trimming

#: Trains on consecutive updates of the epoch, each a list of micro-batches; the number is that of the first.
Subject = Callable[[list[list[Batch]], int], None]


def random_data(folder: Path, pairs: int, vocabulary: int) -> PreparedData:
    """Random pairs, 25 sub-words per side on average, and a tokenizer of made-up words."""
    corpus, model = folder / "corpus", io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"w{number}" for number in range(vocabulary - 4)), model_writer=model, model_type="word",
        vocab_size=vocabulary, character_coverage=1.0, pad_id=PAD, unk_id=UNK, eos_id=EOS, bos_id=BOS, minloglevel=2,
    )  # fmt: skip
    joint = SentencePieceTokenizer(model.getvalue(), name="made-up words")
    joint.save(folder / "joint.model")
    fingerprint = TokenizerPair(joint, joint).fingerprint
    write_corpus(corpus, pairs=pairs, mean_length=25.0, vocabulary=vocabulary, fingerprint=fingerprint)
    empty = folder / "empty"
    empty.touch()
    dev = EvaluationSet(name="none", source=empty, target=empty, bleu_tokenizer="13a", gold_alignments=None)
    return PreparedData(
        directory=folder, train=corpus, dev_binary=corpus, dev=dev, tests=(), tokenizer=folder,
        counts={"sources": {"random": {"kept": pairs}}}, title="random pairs", licence="",
    )  # fmt: skip


def make_trainer(config: Config, data: PreparedData, attention: str, folder: Path) -> Trainer:
    """A trainer whose run directory is temporary."""
    model = replace(config.model, attention=cast(AttentionName, attention))
    config = replace(config, run_dir=str(folder / attention), model=model)
    run = RunDirectory(config.run_dir)
    run.checkpoints.mkdir(parents=True)
    context = init_distributed(config.training.device)
    return Trainer(config, data=data, run=run, context=context, resume=None)


def our_subject(trainer: Trainer) -> Subject:
    """The trainer's own updates, of the first epoch."""
    plan = trainer.corpus.plan(trainer.state.epoch)

    def train(updates: list[list[Batch]], first: int) -> None:
        trainer.state.next_update_in_epoch = first
        for batches in updates:
            trainer.train_step(batches, plan)
        trainer.state.next_update_in_epoch = 0

    return train


def other_subject(name: str, config: Config, trainer: Trainer) -> Subject:
    """Updates of another library's model with the vocabulary and the device of a trainer."""
    others = PlainUpdates(
        name, config, tokenizers=trainer.tokenizers, device=trainer.context.device, precision=trainer.precision
    )

    def train(updates: list[list[Batch]], first: int) -> None:
        for batches in updates:
            others.step(batches)

    return train


def matmul_rate(precision: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of a matmul of random matrices.

    On a GPU they are 8192 × 8192, large enough for its full rate, and ten calls in a row show the rate that its power
    limit allows. On a CPU they are shaped like those of the feed-forward block; best of 20.
    """
    (rows, inner, columns), calls = ((8192,) * 3, 10) if device.type == "cuda" else ((4096, 1024, 1024), 1)
    left = torch.randn(rows, inner, device=device).to(precision)
    right = torch.randn(inner, columns, device=device).to(precision)
    rounds = 3 if device.type == "cuda" else 20
    fastest = min(seconds_of(lambda: left @ right, device, calls=calls) for _ in range(rounds))
    return 2 * rows * inner * columns / fastest


class StepTimer:
    """Seconds that a trainer spends in forward passes, backward passes and the optimizer, on a CPU."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds = 0.0
        self._start = 0.0
        trainer.objective.register_forward_pre_hook(lambda *_: self._begin())
        trainer.objective.register_forward_hook(self._end_of_forward)
        trainer.optimizer.register_step_pre_hook(lambda *_: self._begin())
        trainer.optimizer.register_step_post_hook(lambda *_: self._end())
        for parameter in trainer.parameters:  # the last gradient ends the backward pass
            parameter.register_post_accumulate_grad_hook(lambda _: self._continue())

    def _end_of_forward(self, _module: object, _inputs: object, output: tuple[Tensor, Tensor]) -> None:
        self._end()
        output[0].register_hook(lambda _: self._begin())  # the gradient of the loss begins the backward pass

    def _begin(self) -> None:
        self._start = time.perf_counter()

    def _end(self) -> None:
        self.seconds += time.perf_counter() - self._start

    def _continue(self) -> None:
        self._end()
        self._begin()


def overhead_fraction(config: Config, data: PreparedData, attention: str, folder: Path, *, updates: int) -> float:
    """The fraction of an update's time outside forward pass, backward pass and optimizer, in the trainer's own loop."""
    trainer = make_trainer(config, data, attention, folder / "loop")
    timer = StepTimer(trainer)
    marks: list[tuple[float, float]] = []

    def enough() -> bool:  # called once after each update
        marks.append((time.perf_counter(), timer.seconds))
        return len(marks) > updates + 1

    trainer.run(stop_requested=enough)
    (start, useful_before), (end, useful_after) = marks[1], marks[-1]
    return 1.0 - (useful_after - useful_before) / (end - start)


def measure(
    config: Config, variants: list[str], others: list[str], *, updates: int, rounds: int, random_pairs: int
) -> dict[str, Any]:
    """The document: one row per variant and other model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = config.data.vocabulary_size
        size = suitable_size(random_pairs) if size == "auto" else size
        data = random_data(folder, random_pairs, size) if random_pairs else prepare(config.data)
        trainers = {variant: make_trainer(config, data, variant, folder) for variant in variants}
        first_trainer = trainers[variants[0]]
        device, precision = first_trainer.context.device, first_trainer.precision
        epoch = first_trainer.updates(first_trainer.corpus.plan(first_trainer.state.epoch))
        batches = list(islice(epoch, updates * rounds))
        epoch.close()
        if len(batches) < updates * rounds:
            raise ConfigError(f"the epoch has {len(batches)} updates; --updates times --rounds must not be more")
        subjects = {variant: our_subject(trainer) for variant, trainer in trainers.items()}
        subjects |= {other: other_subject(other, config, first_trainer) for other in others}
        flops = {}
        for subject_name, subject in list(subjects.items()):  # also the warm-up
            try:
                subject(batches if device.type == "cuda" else [], 0)
            except torch.OutOfMemoryError:  # ours raises another error
                print(f"{subject_name}: the memory of the GPU does not suffice: left out", file=sys.stderr)
                del subjects[subject_name]
                continue
            with FlopCounterMode(display=False) as counter:
                subject(batches[:1], 0)
            flops[subject_name] = counter.get_total_flops() / sum(batch.target_tokens for batch in batches[0])
        # The variants need the same matmuls, but the counter does not see those in Triton kernels.
        flops |= dict.fromkeys(variants, max(flops[variant] for variant in variants))
        done = dict.fromkeys(subjects, 0)

        def tokens_per_second(subject_name: str) -> float:
            first = done[subject_name] * updates
            done[subject_name] += 1
            part = batches[first : first + updates]
            tokens = sum(batch.target_tokens for micro_batches in part for batch in micro_batches)
            return tokens / seconds_of(lambda: subjects[subject_name](part, first), device)

        timed: dict[str, Callable[[], float]] = {
            subject_name: lambda n=subject_name: tokens_per_second(n)  # type: ignore[misc]
            for subject_name in subjects
        }
        speeds = interleave({**timed, "matmul": lambda: matmul_rate(precision, device)}, rounds)
        rate = statistics.median(speeds.pop("matmul"))
        overhead = None
        if device.type == "cpu":
            overhead = overhead_fraction(config, data, variants[0], folder, updates=updates * rounds)
    return {
        **environment(device),
        "precision": str(precision).removeprefix("torch."),
        "update_tokens": config.training.update_tokens,
        "max_batch_tokens": first_trainer.max_batch_tokens,
        "matmul_gflops": rate / 1e9,
        "overhead_fraction": overhead,
        "rows": [
            {
                "attention": subject_name,
                "tokens_per_second": summary.median,
                "lowest": summary.lowest,
                "highest": summary.highest,
                "ratio": summary.ratio,
                "matmul_fraction": summary.median * flops[subject_name] / rate,
            }
            for subject_name, summary in summarize(speeds).items()
        ],
    }


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__, rounds=5)
    variants = list(ATTENTION_VARIANTS)
    parser.add_argument("--config", default="configs/demo.yaml", help="the experiment (default: %(default)s)")
    parser.add_argument("--attention", nargs="+", default=variants, choices=variants)
    parser.add_argument("--others", action="store_true", help="time other libraries' models too")
    parser.add_argument("--updates", type=int, default=5, help="updates per round (%(default)s)")
    parser.add_argument("--random-pairs", type=int, default=0, metavar="N", help="train on N random pairs instead")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_intermixed_args()


def main() -> int:
    """Parse, measure, print."""
    options = parse_options()
    config = load_config(options.config, options.overrides)
    disable_malloc_trimming()  # as nmt-train does
    keep_training_matmuls()
    others = list(OTHERS) if options.others else []
    for name in others:
        if not installed(name):
            print(f"{name.split('.')[0]} is not installed: left out", file=sys.stderr)
    others = [name for name in others if installed(name)]
    document = measure(
        config, options.attention, others, updates=options.updates, rounds=options.rounds,
        random_pairs=options.random_pairs,
    )  # fmt: skip
    print(f"{describe(document)}, {document['precision']}; matmul rate {document['matmul_gflops']:.0f} GFLOP/s")
    widths = (22, 11, 11, 11, 7, 16)
    print_row(["attention", "tokens/s", "lowest", "highest", "ratio", "of matmul rate"], widths)
    for row in document["rows"]:
        speeds = [f"{row[name]:,.0f}" for name in ("tokens_per_second", "lowest", "highest")]
        print_row([row["attention"], *speeds, f"{row['ratio']:.2f}", f"{row['matmul_fraction']:.0%}"], widths)
    if document["overhead_fraction"] is not None:
        print(f"outside forward, backward and optimizer: {document['overhead_fraction']:.1%} of an update's time")
    write_document(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("bench_train", lambda _: main()))
