"""What reports say of a run besides its scores: what it is, how far it is, its size, its speed and its machine."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_parameters, load_state, update_of
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.training.trainer_state import TrainerState
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import read_json


def summarize(run: RunDirectory, checkpoint: Path | None, settings: TrainingConfig) -> dict[str, Any]:
    """The summary, as JSON values; what is unknown is None. ``checkpoint`` is the one whose translations are scored."""
    records = run.read_metrics()
    speeds = [record["target_tokens_per_second"] for record in records if record["event"] == "train"]
    checkpoints = list_checkpoints(run.checkpoints)
    environment = read_json(run.environment) or {}
    return {
        "name": run.path.name,
        "path": str(run.path),
        "seed": settings.seed,
        "updates": update_of(checkpoints[-1]) if checkpoints else 0,
        "finished": is_finished(run, settings),
        "checkpoint": _describe_checkpoint(checkpoint),
        "parameters": _count_parameters(checkpoint),
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "seconds": records[-1].get("elapsed") if records else None,
        "environment": environment if "device" in environment else None,  # an imported model was not trained here
    }


def is_finished(run: RunDirectory, settings: TrainingConfig) -> bool:
    """Whether a run has reached the end that the settings define."""
    try:
        state = load_state(list_checkpoints(run.checkpoints)[-1])
        return TrainerState(**state["progress"]).is_finished(settings)
    except (UserError, LookupError):
        return False


def machine(environment: dict[str, Any]) -> str:
    """The machine of a training in words."""
    return (
        f"{environment.get('ranks')} x {environment.get('device')}, {environment.get('threads')} threads, "
        f"torch {environment.get('torch')}, Python {environment.get('python')}"
    )


def _describe_checkpoint(checkpoint: Path | None) -> str:
    """The name of a checkpoint, or of how many the average is."""
    try:
        count = len(load_state(checkpoint).get("averaged", [])) if checkpoint else 0
    except UserError:
        return "–"
    return "–" if checkpoint is None else f"average of {count}" if count else checkpoint.resolve().name


def _count_parameters(checkpoint: Path | None) -> int | None:
    """Parameters of a model; a tied matrix counts once."""
    try:
        tensors = load_parameters(checkpoint) if checkpoint else {}
    except UserError:
        return None
    return sum({tensor.data_ptr(): tensor.numel() for tensor in tensors.values()}.values()) or None
