"""Models are loaded from run directories that were copied, damaged, changed or are being written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nmt_rela.checkpoints import run_directory as run_directory_module
from nmt_rela.checkpoints.checkpoint import load_state, load_tensors, verify_checkpoint, write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory, settings_to_record
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.export.safetensors import export_safetensors
from nmt_rela.training.optimizer import build_optimizer, load_optimizer_state
from nmt_rela.training.trainer_state import TrainerState
from nmt_rela.utils.errors import CheckpointError, UserError
from tests.integration.small_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return write_run(tmp_path / "run")


def rewrite(run: RunDirectory, step: str = "step_1", *, model: Any = None, **state: Any) -> Path:
    """A checkpoint with a valid manifest, as `step_1` but for what is given."""
    first = run.checkpoints / "step_1"
    weights = load_tensors(first, "model") if model is None else model
    write_checkpoint(run.checkpoints / step, tensors={"model": weights}, state=load_state(first) | state)
    return run.checkpoints / step


def test_without_links_the_newest_intact_checkpoint_is_taken_with_a_warning(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    for step in ("step_9", "step_10", "step_20"):
        rewrite(run, step)
    (run.checkpoints / "step_20" / "model.pt").write_bytes(b"half")
    (run.path / "last").unlink()
    assert run.checkpoint().name == "step_10"
    assert "has none of the links average, best and last; using checkpoint step_10" in caplog.text


def test_a_link_that_moves_while_it_is_read_is_followed_once_more(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(run, "step_2")
    run.link_checkpoint("last", "step_1")

    def verify(directory: Path) -> None:
        if directory.resolve().name == "step_1":  # training saves the next checkpoint and deletes this one
            shutil.rmtree(directory.resolve())
            run.link_checkpoint("last", "step_2")
        verify_checkpoint(directory)

    monkeypatch.setattr(run_directory_module, "verify_checkpoint", verify)
    run.load_model("last")


@pytest.mark.parametrize(
    ("model", "state", "reason"),
    [
        ([torch.ones(2)], {}, "does not hold parameters by name"),
        ({1: torch.ones(2)}, {}, "does not hold parameters by name"),
        ({"w": torch.ones(2)}, {}, "not part of this model|missing"),
        (None, {"vocabulary": None}, "made with another vocabulary"),
    ],
)
def test_a_checkpoint_of_other_content_is_one_error(
    run: RunDirectory, model: Any, state: dict[str, Any], reason: str
) -> None:
    rewrite(run, model=model, **state)
    with pytest.raises(CheckpointError, match=reason):
        run.load_model()


@pytest.mark.parametrize("content", ["null", "[1]", "[" * 100_000, "{}"])
def test_other_json_than_a_manifest_or_a_state_is_one_error(run: RunDirectory, content: str) -> None:
    for name in ("manifest.json", "state.json"):
        path = rewrite(run)
        (path / name).write_text(content)
        with pytest.raises(CheckpointError, match=r"manifest|unreadable"):
            verify_checkpoint(path)
    if content != "{}":
        with pytest.raises(CheckpointError, match=r"state.json: missing or unreadable"):
            load_state(path)
    (path / "manifest.json").write_text('{"format_version": 1, "files": {}}')
    with pytest.raises(CheckpointError, match="does not list"):
        verify_checkpoint(path)


def test_weights_of_another_type_are_refused(run: RunDirectory) -> None:
    weights = load_tensors(run.checkpoints / "step_1", "model")
    name = next(iter(weights))
    rewrite(run, model=weights | {name: weights[name].half()})
    with pytest.raises(CheckpointError, match=r"float16 in the checkpoint, \[.*\] float32 by the config"):
        run.load_model()


def optimizer_of(weights: torch.Tensor) -> torch.optim.Optimizer:
    parameter = nn.Parameter(weights)
    optimizer = build_optimizer([parameter], TrainingConfig())
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "moment",
    [torch.ones(2), torch.ones(3, dtype=torch.float64), torch.ones(1).expand(3), torch.ones(3, device="meta"), None, 1],
)
def test_an_optimizer_state_that_does_not_fit_is_refused(moment: Any) -> None:
    state = optimizer_of(torch.ones(3)).state_dict()
    load_optimizer_state(optimizer_of(torch.ones(3)), state)
    state["state"][0]["exp_avg"] = moment
    with pytest.raises(ValueError, match="exp_avg of parameter 0 is "):
        load_optimizer_state(optimizer_of(torch.ones(3)), state)


@pytest.mark.parametrize(
    "wrong", [{"update": -1}, {"update": 2**64}, {"epoch": None}, {"epoch": 1.5}, {"best_score": "a"}, {"other": 1}]
)
def test_a_position_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    assert TrainerState.from_checkpoint({"update": 3, "best_score": -1.5}).update == 3
    with pytest.raises((TypeError, ValueError)):
        TrainerState.from_checkpoint({"update": 3} | wrong)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"num_heads: 4", b"num_heads: 2", "model.num_heads: found 2, but .* was made with 4; set it back"),
        (b"max_length: 256", b"max_length: 252", "data.max_length: found 252"),
        (b"d_model", b"d_m\xefdel", "config.yaml: damaged, it cannot be read as text"),
        (b"d_model", b"d_m/del", "unknown key"),
    ],
)
def test_weights_are_loaded_only_under_the_settings_they_were_made_with(
    run: RunDirectory, old: bytes, new: bytes, reason: str
) -> None:
    rewrite(run, config=settings_to_record(run.config()))
    run.load_model()
    content = run.config_file.read_bytes()
    assert old in content
    run.config_file.write_bytes(content.replace(old, new))
    with pytest.raises(UserError, match=reason):
        run.load_model()


def test_another_search_than_the_checkpoint_was_validated_with_is_stated(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(run, config=settings_to_record(run.config()))
    run.load_model()
    assert not caplog.text
    run.config_file.write_text(run.config_file.read_text().replace("length_penalty: 0.6", "length_penalty: 0.2"))
    run.load_model()
    assert "decoding.length_penalty: found 0.2, but" in caplog.text


def test_other_metrics_than_those_of_the_training_are_accepted(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(run, config=settings_to_record(run.config()))
    config = run.config()
    evaluation = replace(config.evaluation, metrics=("ter",))
    run.config_file.write_text(config_to_yaml(replace(config, evaluation=evaluation)))
    run.load_model()
    assert not caplog.text


def test_a_home_directory_that_does_not_exist_is_no_run() -> None:
    with pytest.raises(CheckpointError, match="~nobody-at-all/run"):
        RunDirectory("~nobody-at-all/run").config()


def test_damage_in_an_export_is_found(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is not installed: pip install -e '.[export]'")
    export_safetensors(run, tmp_path / "export")
    exported = RunDirectory(tmp_path / "export")
    exported.load_model()
    for name in ("model.safetensors", "config.yaml"):
        intact = (exported.path / name).read_bytes()
        (exported.path / name).write_bytes(intact[:-2] + bytes([intact[-2] ^ 1]) + intact[-1:])
        with pytest.raises(UserError, match=name):
            exported.load_model()
        (exported.path / name).write_bytes(intact)


@pytest.mark.parametrize("file", ["metrics.jsonl", "config.yaml", "checkpoints/step_1/state.json"])
def test_an_endless_device_is_not_read(run: RunDirectory, file: str) -> None:
    (run.path / file).unlink(missing_ok=True)
    (run.path / file).symlink_to("/dev/zero")
    reads: dict[str, Callable[[], object]] = {
        "metrics.jsonl": run.read_metrics,
        "config.yaml": run.config,
        "checkpoints/step_1/state.json": lambda: load_state(run.checkpoints / "step_1"),
    }
    with pytest.raises((OSError, CheckpointError)):
        reads[file]()


def test_results_are_not_written_through_a_link_that_leads_out_of_the_run(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (run.path / "evaluation").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="a link leads out of the run"):
        run.directory_of_results("evaluation", "average")
    assert run.directory_of_results("analysis") == run.path / "analysis"


def test_a_damaged_metrics_line_is_left_out(run: RunDirectory) -> None:
    run.metrics.write_bytes(json.dumps({"update": 1}).encode() + b"\n[1]\n\xff\n" + b"[" * 100_000 + b"\n{")
    assert run.read_metrics() == [{"update": 1}]
