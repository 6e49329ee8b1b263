"""How a run ends: by its limits, by a development score that no longer improves, by numbers that are not finite."""

from __future__ import annotations

import itertools
import json
import os
import re
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.utils.tensorboard
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import train
from nmt_rela.models.transformer import Transformer
from nmt_rela.training import trainer
from nmt_rela.training.objective import TranslationObjective
from nmt_rela.training.validation import Validator
from nmt_rela.utils.errors import DataError
from tests.digits import write_digits


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_digits(tmp_path, reverse=False, pairs=100)


def updates_done(config: Path, *settings: str, status: int = 0) -> int:
    fast = [
        "training.validation_decode_sentences=0",
        "training.checkpoint_metric=loss",
        "training.update_tokens=256",
        "--quiet",
    ]
    assert train.main(["--config", str(config), *fast, *settings]) == status
    return int(list_checkpoints(config.parent / "run" / "checkpoints")[-1].name.removeprefix("step_"))


def test_max_epochs_counts_passes_over_the_corpus(config: Path) -> None:
    one = updates_done(config, "training.max_epochs=1")
    assert one > 1
    assert updates_done(config, "training.max_epochs=3") in range(3 * one - 3, 3 * one + 4)


def test_the_end_by_epochs_is_recorded_and_measured(config: Path) -> None:
    done = updates_done(config, "training.max_epochs=1")
    run = RunDirectory(config.parent / "run")
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    events = [(record["event"], record["update"]) for record in records]
    assert events == [("epoch", 0), ("train", done), ("validation", done)]
    assert run.checkpoint("best").resolve().name == run.checkpoint("last").resolve().name


def test_a_few_updates_are_traced_on_request(config: Path) -> None:
    updates_done(config, "training.max_updates=7", "training.profile_updates=2")
    (trace,) = (config.parent / "run" / "profile").iterdir()
    assert trace.name == "update_3_rank_0.json"
    steps = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#4"} <= steps
    assert "ProfilerStep#5" not in steps


def test_max_hours_saves_and_stops(config: Path) -> None:
    assert updates_done(config, "training.max_hours=1e-9") == 1


def test_a_linear_schedule_that_is_made_longer_says_how_the_rate_jumps(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = ["training.lr_schedule=linear", "training.learning_rate=0.01", "training.warmup_updates=1"]
    updates_done(config, *linear, "training.max_updates=3")
    assert "linear" not in capsys.readouterr().err
    updates_done(config, *linear, "training.max_updates=5")
    assert "update 4 has rate 0.004 instead of 0" in capsys.readouterr().err


def test_patience_stops_a_run_without_improvement(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "learning_rate", lambda *_, **__: 0.0)
    done = updates_done(config, "training.validate_every=1", "training.patience=3", "training.save_every=100")
    assert done == 4  # the first is the best there will be


def test_an_update_is_saved_before_a_validation_that_fails(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["training.validate_every=2", "training.save_every=100", "training.max_updates=3"]
    with monkeypatch.context() as failing:
        failing.setattr(Validator, "validate", Mock(side_effect=DataError("no BLEU here")))
        assert updates_done(config, *settings, status=2) == 2
    assert updates_done(config, *settings) == 3
    records = RunDirectory(config.parent / "run").read_metrics()
    assert [record["update"] for record in records if record["event"] == "validation"] == [2, 3]


def test_a_few_non_finite_updates_are_skipped_and_counted(config: Path, request: pytest.FixtureRequest) -> None:
    spoil_losses(request, until=3)
    assert updates_done(config, "training.max_updates=6", "training.log_every=6") == 6
    run = RunDirectory(config.parent / "run")
    (record,) = [json.loads(line) for line in run.metrics.read_text().splitlines() if '"train"' in line]
    assert record["skipped_updates"] == 3
    assert all(tensor.isfinite().all() for tensor in load_tensors(run.checkpoint("last"), "model").values())


def test_too_many_nonfinite_updates_end_the_run_with_finite_weights(
    config: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_losses(request, until=100)
    settings = ["training.max_consecutive_nonfinite_updates=4", "training.save_every=1"]
    updates_done(config, *settings, status=2)
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert re.search(
        r"update 4, rank 0 \(training pairs (\d+, )*\d+ …\): .* not finite for 4 consecutive updates", error
    )
    weights = load_tensors(RunDirectory(config.parent / "run").checkpoint("last"), "model")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def spoil_losses(request: pytest.FixtureRequest, *, until: int) -> None:
    """Make the loss of the first training passes NaN."""
    calls = itertools.count(1)

    def spoil(module: torch.nn.Module, _: Any, losses: Any) -> Any:
        if isinstance(module, TranslationObjective) and module.training and next(calls) <= until:
            return losses[0] * float("nan"), *losses[1:]
        return losses

    hook = register_module_forward_hook(spoil)
    request.addfinalizer(hook.remove)


def test_the_gradient_is_six_frames_from_the_shell(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``main → launch.run → Trainer.run → train_step → TranslationObjective.forward → model``; torch's not counted."""
    frames: list[str] = []
    real = Transformer.encode

    def encode(self: Transformer, *inputs: Any) -> Any:
        if self.training and not frames:
            frames.extend(
                f"{Path(frame.filename).stem}.{frame.name}"
                for frame in traceback.extract_stack()
                if "/nmt_rela/" in frame.filename
            )
        return real(self, *inputs)

    monkeypatch.setattr(Transformer, "encode", encode)
    updates_done(config, "training.max_updates=1")
    assert frames == ["train.main", "launch.run", "trainer.run", "trainer.train_step", "objective.forward"]
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "8192"  # what training has oneDNN keep


def test_a_run_that_ran_out_of_memory_continues_with_smaller_micro_batches(
    config: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = itertools.count(1)

    def limit(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, TranslationObjective) and module.training and next(passes) > 1:
            (batch,) = inputs
            if batch.source.numel() + batch.target.numel() > 200:
                raise torch.OutOfMemoryError("CUDA out of memory")

    hook = register_module_forward_pre_hook(limit)
    request.addfinalizer(hook.remove)
    common = ["training.max_updates=3", "training.save_every=1"]
    assert updates_done(config, *common, status=2) == 1
    error = capsys.readouterr().err
    assert re.search(
        r"training\.max_batch_tokens: found \d+, too many .* micro-batch of \d+ sentences, \d+ source and \d+ target "
        r"tokens long, does not fit; the same command with training\.max_batch_tokens=\d+ continues the run",
        error,
    )
    assert error.count("\n") == 1
    assert updates_done(config, *common, "training.max_batch_tokens=200") == 3


def test_the_optimizer_s_memory_is_that_of_the_model(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("nmt_rela.training.trainer.step_unless_nonfinite", fail)
    assert train.main(["--config", str(config), "--quiet", "training.max_updates=1"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"error: model: [\d,]+ parameters, .* the optimizer's state do not fit the memory of cpu", error)
    assert "decoding" not in error


@pytest.mark.parametrize("place", ["trainer.build_model", "validation.Validator.validate"])
def test_memory_that_ends_outside_of_an_update_is_no_fault_of_the_beam_search(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(f"nmt_rela.training.{place}", fail)
    assert train.main(["--config", str(config), "--quiet", "training.max_updates=1"]) == 2
    error = capsys.readouterr().err
    assert "out of memory outside of an update, as at the start or in validation (CUDA out of memory. Tried to" in error
    assert "decoding" not in error
    assert error.count("\n") == 1


def test_a_log_that_cannot_be_written_does_not_end_the_run(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(torch.utils.tensorboard.SummaryWriter, "add_scalar", broken)
    assert updates_done(config, "training.max_updates=2", "training.log_every=1") == 2
    assert caplog.text.count("TensorBoard cannot be written (the disk is gone)") == 1


def test_fp16_is_refused_on_the_cpu(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config", str(config), "--quiet", "training.precision=fp16", "training.device=cpu"]) == 2
    assert "'fp16' needs a GPU; accepted on the CPU: auto, float32, bf16" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [20_240_101, 2**63 - 1])
def test_a_seed_may_be_large(config: Path, seed: int) -> None:
    assert updates_done(config, f"training.seed={seed}", "training.max_updates=1") == 1


def test_a_run_killed_while_its_directory_was_made_can_begin_again(config: Path) -> None:
    run = RunDirectory(config.parent / "run")
    run.path.mkdir()
    (run.path / ".config.yaml.partial").write_text("run: ha")
    assert updates_done(config, "training.max_updates=1") == 1


def test_the_configuration_is_written_before_anything_else(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill at any moment leaves nothing, or a run whose configuration is whole."""
    run, real, seen = RunDirectory(config.parent / "run"), Path.mkdir, []

    def watch(path: Path, *more: Any, **options: Any) -> None:
        real(path, *more, **options)
        if path == run.checkpoints:
            seen.append(run.config_file.exists())

    monkeypatch.setattr(Path, "mkdir", watch)
    updates_done(config, "training.max_updates=1")
    assert seen[0]
