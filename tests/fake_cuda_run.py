"""Updates, validation, a resumed run and searches on a device without numbers; the script of ``test_fake_cuda``.

Arguments: a folder to work in and a part (`PARTS`).
"""

from __future__ import annotations

import json
import logging.handlers
import shutil
import sys
from pathlib import Path
from typing import Any

from fake_cuda import FakeDevice, fake_cuda, load_device

if __name__ == "__main__":
    load_device(Path(sys.argv[1]))  # before torch

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from unittest import mock

import bench_attention
import bench_decode
import bench_device
import bench_train
import memory_bandwidth
import pytest
import torch
from decode_subjects import random_subject
from triton.runtime.jit import JITFunction

from nmt_rela.attention.kernel_check import check_attention
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import analyze, score, translate
from nmt_rela.commands import train as train_command
from nmt_rela.config.loader import load_config
from nmt_rela.data.data_loader import Batch
from nmt_rela.generation.beam_search import BeamHistory
from nmt_rela.generation.decoding_step import SearchConstraints
from nmt_rela.kernels import availability
from nmt_rela.kernels.triton import topk
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.preparation.pipeline import prepare
from nmt_rela.training import launch
from nmt_rela.training import trainer as trainer_module
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.objective import TranslationObjective
from nmt_rela.training.trainer import Trainer
from tests.digits import TINY, write_digits

SHORT = ["training.max_updates=2", "training.log_every=1", "training.validate_every=2", "training.save_every=2"]


def trainer_on_device(
    folder: Path, variant: str, precision: str, resume: Path | None = None, *overrides: str
) -> Trainer:
    settings = [
        f"training.precision={precision}", "training.loss_normalization=sentences", "training.max_batch_tokens=512",
        "training.max_grad_norm=1.0",
        *SHORT,
        *(f"model.{each}dropout=0.1" for each in ("", "embedding_", "attention_", "ffn_")), *overrides,
    ]  # fmt: skip
    settings.append("training.guided_alignment.weight=0.1")
    config = load_config(write_digits(folder, reverse=False, variant=variant, links=True), settings)
    run = RunDirectory(config.run_dir)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    context = DistributedContext(0, 1, torch.device("cuda", 0))
    return Trainer(config, data=prepare(config.data), run=run, context=context, resume=resume)


def forbid_reading(owner: Any, method: str, device: FakeDevice) -> Any:
    """A patch: within the method a number read from the device raises."""
    function = getattr(owner, method)

    def unread(*args: Any, **options: Any) -> Any:
        device.may_be_read = False
        result = function(*args, **options)
        device.may_be_read = True
        return result

    return mock.patch.object(owner, method, unread)


def train(folder: Path) -> None:
    """Updates with validation and a checkpoint, and the run continued from it."""
    for variant, precision in (("softmax", "bf16"), ("rela-g", "fp16"), ("entmax15", "float32")):
        (work := folder / f"{variant}-{precision}").mkdir()
        with fake_cuda() as device, forbid_reading(Trainer, "train_step", device):
            device.may_be_read = True
            trainer = trainer_on_device(work, variant, precision)
            assert trainer.run(stop_requested=lambda: False)
            checkpoint = CheckpointManager(trainer.run_directory, trainer.config.training).latest_valid()
            resumed = trainer_on_device(work, variant, precision, checkpoint, "training.max_updates=3")
            assert resumed.state.update == 2
            assert resumed.run(stop_requested=lambda: False)


@contextmanager
def searches_that_wait_for_nothing(device: FakeDevice) -> Iterator[None]:
    """From its first step on, a search may read numbers only when a check is due or the caches are compacted.

    All searches have 10 steps: the numbers on the device, which say how many, are 1.
    """
    compact, is_check_due = IncrementalDecoder._compact_cache, SearchConstraints.is_check_due

    def from_here_on(may_be_read: bool, function: Any) -> Any:
        def changed(*args: Any) -> Any:
            device.may_be_read = may_be_read
            return function(*args)

        return changed

    def read_compact(decoder: Any) -> None:
        before, device.may_be_read = device.may_be_read, True
        compact(decoder)
        device.may_be_read = before

    def read_if_due(constraints: Any, step: int) -> bool:
        is_due = is_check_due(constraints, step)
        device.may_be_read = is_due or step + 1 == constraints.max_steps
        return is_due

    with ExitStack() as stack:
        for owner, name, value in (
            (IncrementalDecoder, "step", from_here_on(False, IncrementalDecoder.step)),
            (IncrementalDecoder, "reorder", from_here_on(False, IncrementalDecoder.reorder)),
            (IncrementalDecoder, "_compact_cache", read_compact),
            (SearchConstraints, "is_check_due", read_if_due),
            (SearchConstraints, "max_steps", 10),
            (BeamHistory, "best_hypotheses", from_here_on(True, BeamHistory.best_hypotheses)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def generate(folder: Path) -> None:
    """Every way to translate, score and analyze, by the commands."""
    config = write_digits(folder, reverse=False, variant="rela-g")
    assert train_command.main(["--config", str(config), "--quiet", *TINY, "training.max_updates=1"]) == 0
    run, test = str(folder / "run"), [str(folder / f"test.{side}") for side in ("plain", "turned")]
    on_gpu = ["--model", run, "--device", "cuda", "--precision", "bf16"]
    given = [*on_gpu, "--input", test[0], "--max-length-offset", "10", "--quiet"]
    prefixes = folder / "prefixes"
    prefixes.write_text("1 2\n" * len(Path(test[0]).read_text(encoding="utf-8").splitlines()), encoding="utf-8")
    other = shutil.copytree(run, folder / "other", symlinks=True)
    launched = set()
    with fake_cuda(lambda function, *_: launched.add(function)) as device, ExitStack() as stack:
        # Without numbers no kernel agrees with the reference.
        for module in ("generation.device", "generation.kernel_check"):
            stack.enter_context(mock.patch(f"nmt_rela.{module}.check_kernels"))
        for options in (
            ["--n-best", "2", "--alignments"],
            ["--prefixes", str(prefixes), "--early-stopping"],
            ["--model", str(other)],
            ["--beam-size", "1"],
            ["--sample", "--n-best", "2", "--top-k", "3"],
            ["--sample", "--top-p", "0.5"],
        ):
            device.may_be_read = True
            with searches_that_wait_for_nothing(device):
                assert translate.main([*given, *options]) == 0
        device.may_be_read = True
        assert score.main([*on_gpu, "--source", test[0], "--target", test[1], "--quiet"]) == 0
        few = ["--sentences", "20", "--no-plots", "--ablate-heads", "4"]
        assert analyze.main(["--model", run, "--device", "cuda", *few]) == 0
    assert {topk._block_kernel, topk._sentence_kernel} <= launched


def detect_faults(folder: Path) -> None:
    """Planted faults that a real GPU would answer by an error or by waiting: each is found."""
    forward, to, step = TranslationObjective.forward, Batch.to, trainer_module.step_unless_nonfinite

    def with_host_tensor(self: TranslationObjective, batch: Batch) -> Any:
        loss, *others = forward(self, batch)
        return (loss * torch.ones(1)).sum(), *others

    def with_copied_number(self: TranslationObjective, batch: Batch) -> Any:
        loss, *others = forward(self, batch)
        return loss * torch.tensor(2.0, device=loss.device), *others

    def with_decision(optimizer: Any, scaler: Any, norm: Any) -> Any:
        return step(optimizer, scaler, norm) if bool(norm.isfinite()) else norm

    def with_host_indices(self: Batch, device: Any) -> Batch:
        return replace(to(self, device), target_positions=self.target_positions)

    for owner, name, fault, message in (
        (TranslationObjective, "forward", with_host_tensor, "found at least two devices"),
        (TranslationObjective, "forward", with_copied_number, "copied from the CPU"),
        (trainer_module, "step_unless_nonfinite", with_decision, "aten._local_scalar_dense"),
        (Batch, "to", with_host_indices, "indices on the CPU"),
    ):
        with fake_cuda() as device, forbid_reading(Trainer, "train_step", device):
            device.may_be_read = True
            trainer = trainer_on_device(folder, "softmax", "bf16")
            with mock.patch.object(owner, name, fault), pytest.raises(Exception, match=message):
                trainer.run(stop_requested=lambda: False)


def train_without_triton(folder: Path) -> None:
    """Where Triton cannot be used the reference trains, and the run says why."""

    def broken(error: Exception) -> Any:
        def run(*_: Any, **__: Any) -> None:
            raise error

        return mock.patch.object(JITFunction, "run", run)

    def versions(answer: Any) -> Any:
        return mock.patch.object(availability, "version", mock.Mock(**answer))

    hidden = {
        "Triton is not installed": versions({"side_effect": PackageNotFoundError("triton")}),
        "Triton 3.3.1 is too old; 3.4 or newer is needed": versions({"return_value": "3.3.1"}),
        "cannot run a kernel: Failed to find C compiler": broken(RuntimeError("Failed to find C compiler.\nSet CC.")),
        "cannot run a kernel: [Errno 13]": broken(PermissionError(13, "Permission denied", "cache")),
    }
    logging.getLogger("nmt_rela").addHandler(log := logging.handlers.BufferingHandler(10_000))
    for number, (reason, hide) in enumerate(hidden.items()):
        (work := folder / str(number)).mkdir()
        config = load_config(write_digits(work, reverse=False), [*TINY, *SHORT, "training.device=cuda"])
        availability.triton_problem.cache_clear()
        check_attention.cache_clear()
        with fake_cuda() as device, hide:
            device.may_be_read = True
            assert launch.run(config, lambda config=config: prepare(config.data)) == 0
        kernels = json.loads(RunDirectory(config.run_dir).environment.read_text())["kernels"]
        assert kernels["sdpa"] == "used"
        assert reason in kernels["triton"], kernels
        assert sum(kernels["triton"] in record.getMessage() for record in log.buffer) == 1
        availability._disabled.clear()


def measure(folder: Path) -> None:
    """The benchmarks of a GPU; only their clock is not that of a device."""

    def no_time(function: Any, *_: Any, **__: Any) -> float:
        function()
        return 1e-3

    training = "--config configs/base.yaml --random-pairs 200 --updates 1 --rounds 2 --others training.device=cuda "
    training += "data.task=demo data.source_language=en data.target_language=de run_dir=unused "
    training += "data.vocabulary_size=50 training.update_tokens=256 model.encoder_layers=1 model.decoder_layers=1"
    attention = "--device cuda --lengths 1024 --rounds 1"
    decoding = "--device cuda --layers 1 --length 4 --sentences 4 --vocabulary 100"
    runs = [(bench_device, "--device cuda"), (bench_attention, attention), (bench_train, training)]
    runs += [(bench_attention, f"{attention} --causal --dropout 0.1")]
    modules = [module for module, _ in runs]
    clocks = [(module, "seconds_of", no_time) for module in (*modules, memory_bandwidth)]
    memory = [(torch.cuda, name, lambda *_: 0) for name in ("synchronize", "reset_peak_memory_stats")]
    memory += [(torch.cuda, name, lambda *_: 0) for name in ("memory_allocated", "max_memory_allocated")]
    with fake_cuda() as device, ExitStack() as stack:
        device.may_be_read = True
        for patched in (*clocks, *memory):
            stack.enter_context(mock.patch.object(*patched))
        properties = SimpleNamespace(uuid="0", total_memory=80 << 30, major=9, minor=0)
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", return_value=properties))
        # Without numbers no kernel agrees with the reference.
        stack.enter_context(mock.patch("nmt_rela.generation.device.check_kernels"))
        for module, words in runs:
            with mock.patch.object(sys, "argv", ["benchmark", *words.split()]):
                assert module.main() == 0
        with mock.patch.object(sys, "argv", ["benchmark", *decoding.split()]):
            subject = random_subject("rela-g", "bf16", bench_decode.parse_options())
        assert subject(range(4), 2, 200).bytes_read > 0


PARTS = {
    "measure": measure,
    "train_without_triton": train_without_triton,
    "train": train,
    "generate": generate,
    "detect_faults": detect_faults,
}

if __name__ == "__main__":
    PARTS[sys.argv[2]](Path(sys.argv[1]))
