"""The run directory before training: created, or checked against the configuration of the run that it holds."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nmt_rela import __version__
from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_state, update_of
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import (
    EXPORTED,
    RunDirectory,
    build_model,
    recorded_settings,
    settings_to_record,
)
from nmt_rela.checkpoints.run_lock import RunLock
from nmt_rela.config.loader import config_from_yaml, config_to_yaml
from nmt_rela.config.schema import Config
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.kernels.availability import gpu_backend_states
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.optimizer import learning_rate
from nmt_rela.utils.errors import CheckpointError, ConfigError, DataError, UserError
from nmt_rela.utils.files import atomic_write, check_writable, read_json

LOG = logging.getLogger(__name__)

_MUTABLE_ON_RESUME = frozenset(
    {
        "run_dir",
        "data.task",  # the text may have moved; the corpus and the vocabulary are compared by their fingerprints
        "data.data_dir",
        "data.vocabulary",
        "training.max_updates",
        "training.max_epochs",
        "training.max_hours",
        "training.max_batch_tokens",
        "training.max_consecutive_nonfinite_updates",
        "training.log_every",
        "training.validate_every",
        "training.validation_decode_sentences",
        "training.save_every",
        "training.keep_last_checkpoints",
        "training.keep_best_checkpoints",
        "training.checkpoint_metric",
        "training.patience",
        "training.profile_updates",
        "training.device",
    }
)


def is_mutable_on_resume(path: str) -> bool:
    """Whether a setting may change when a run is continued.

    Such settings decide how long the run trains, what it records, how it searches and how much memory it needs, not
    what an update does. A change of any other setting would make it another experiment.
    """
    return path in _MUTABLE_ON_RESUME or path.startswith(("decoding.", "evaluation."))


def check_run_directory(config: Config, *, restart: bool = False) -> None:
    """Check, before any data is prepared, that the run can be written or continued; create nothing.

    Raises ConfigError when the directory cannot be written, when it holds an export or something that is not a run, and
    (unless ``restart``) a run of other settings; also when the weights to start from do not fit the model.
    """
    path = Path(config.run_dir)
    if (path / EXPORTED).exists():
        raise ConfigError(
            f"run_dir: {path} is an export ({EXPORTED}), which cannot be trained on; choose another run_dir=… "
            f"(training.initialize_from={path} starts from its weights)"
        )
    try:
        check_writable(path, is_directory=True)
        run = RunDirectory(path)
        is_run = run.checkpoints.is_dir() and run.tokenizer.exists() and run.config_file.exists()
        unknown = path.is_dir() and not is_run and any(map(_is_unknown_file, path.iterdir()))
    except (OSError, DataError) as error:
        raise ConfigError(f"run_dir: {error}; choose another run_dir=…") from error
    if unknown:
        lost = ", ".join(part.name for part in (run.config_file, run.tokenizer, run.checkpoints) if not part.exists())
        raise ConfigError(f"run_dir: {path} holds files, but no run: {lost} missing; choose another directory")
    if not restart:
        _check_settings(run, config)
    elif is_run and Path.cwd().is_relative_to(path.resolve()):
        raise ConfigError(f"run_dir: {path} holds the working directory and cannot be moved aside; change to another")
    if config.training.initialize_from and (restart or not list_checkpoints(run.checkpoints)):
        initialize_from = RunDirectory(config.training.initialize_from)
        try:
            initialize_from.config()  # raises where it is not a run
            model = build_model(config.model, initialize_from.load_tokenizers())
            initialize_from.initialize(model, config.model)
        except UserError as error:
            raise ConfigError(f"training.initialize_from: {error}") from error


def prepare_run_directory(
    config: Config, data: PreparedData, context: DistributedContext, lock: RunLock, *, restart: bool
) -> Path | None:
    """Create the run directory, or check the existing one; the checkpoint to continue from, None for a new run.

    The main rank alone calls this. While ``lock`` is held no other process trains the run. ``restart`` moves an
    existing run aside.

    Raises ConfigError when the directory is in use or holds a run whose settings differ, and for guided alignment
    without links; CheckpointError when none of its checkpoints is intact, or the data differs from what the run was
    trained on.
    """
    run = RunDirectory(config.run_dir)
    links = ParallelDataset(data.links) if config.training.guided_alignment.weight and data.links else None
    if links and links.source_lengths.max() == 1:  # nothing but the end
        raise ConfigError(
            "training.guided_alignment.weight: no training pair has a sure link; accepted: 0, or 'alignments' of a "
            "source with links i-j"
        )
    lock.acquire(run.lock)
    if restart and run.config_file.exists():
        LOG.info("the earlier run is now %s", _backup_run(run.path))
        lock.acquire(run.lock)
    checkpoint = CheckpointManager(run, config.training).latest_valid()
    _check_settings(run, config)
    tokenizers = TokenizerPair.load(data.tokenizer)
    if checkpoint is not None:
        present = {"vocabulary": tokenizers.fingerprint, "corpus": ParallelDataset(data.train).fingerprint}
        if links:
            present["alignment"] = links.fingerprint
        state = load_state(checkpoint)
        if differing := [name for name, fingerprint in present.items() if state.get(name) != fingerprint]:
            raise CheckpointError(
                f"{checkpoint}: was trained on another {differing[0]} than is prepared now in {data.directory}; "
                "prepare the data as it was, or choose another run directory"
            )
        for path, was, now in _changes(run, config, checkpoint):
            LOG.info("%s: was %s, is %s now", path, was, now)
            if path == "training.max_updates" and config.training.lr_schedule == "linear":
                step, d_model = update_of(checkpoint) + 1, config.model.d_model
                LOG.warning(
                    "training.lr_schedule: linear falls to 0 at max_updates; update %d has rate %.2g instead of %.2g",
                    step,
                    learning_rate(config.training, step, d_model=d_model),
                    learning_rate(replace(config.training, max_updates=was), step, d_model=d_model),
                )
    # config.yaml is written first and atomically, because its presence marks the directory as a run.
    with atomic_write(run.config_file) as file:
        file.write(config_to_yaml(config).encode("utf-8"))
    run.checkpoints.mkdir(exist_ok=True)
    tokenizers.save(run.tokenizer)
    environment = _environment(context, data)
    if config.training.initialize_from:
        environment["initialized_from"] = _origin(run, Path(config.training.initialize_from))
    with atomic_write(run.environment) as file:
        file.write(json.dumps(environment, indent=1).encode("utf-8") + b"\n")
    return checkpoint


def _is_unknown_file(path: Path) -> bool:
    """Whether a file cannot come from a run that was killed while its directory was created."""
    if path.name == "config.yaml":  # a user's own has comments, or another order
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            return text != config_to_yaml(config_from_yaml(text, str(path)))
        except ConfigError:
            return True
    return not path.name.startswith((".lock", ".config.yaml", "checkpoints", "tokenizer", ".tokenizer"))


def _check_settings(run: RunDirectory, config: Config) -> None:
    """Refuse settings with which a run that has a checkpoint cannot be continued."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints or not run.config_file.exists():
        return
    elsewhere = "choose another run_dir=… (nmt-reproduce: --output), or start over with nmt-train --restart"
    changes = _changes(run, config, checkpoints[-1])
    if refused := [change for change in changes if not is_mutable_on_resume(change[0])]:
        listed = ", ".join(f"{path} ({old} → {new})" for path, old, new in refused)
        raise ConfigError(
            f"{run.config_file}: this run was begun with other settings: {listed}; set them back, {elsewhere}"
        )
    if (done := update_of(checkpoints[-1])) > config.training.max_updates:
        raise ConfigError(
            f"training.max_updates: found {config.training.max_updates}, but {run.path} has done {done} updates; "
            f"accepted: {done} or more; {elsewhere}"
        )


def _changes(run: RunDirectory, config: Config, checkpoint: Path) -> list[tuple[str, Any, Any]]:
    """The settings that differ from those that a checkpoint was made with: path, old and new value.

    What the checkpoint does not record is compared with config.yaml, which the user may have changed.
    """
    old = settings_to_record(run.config()) | recorded_settings(checkpoint)
    return [(path, old[path], new) for path, new in settings_to_record(config).items() if old[path] != new]


def _backup_run(path: Path) -> Path:
    path = Path(os.path.abspath(path))  # with a name where it is given as ..
    number = 1
    while (backup := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    shutil.move(path, backup)
    return backup


def _origin(run: RunDirectory, start: Path) -> dict[str, str]:
    """What the model card says of the run that the weights are from; as before where that run is gone."""
    found = read_json(RunDirectory(start).environment)
    if found is None and (before := (read_json(run.environment) or {}).get("initialized_from")):
        return dict(before)
    found = found or {}
    return {"name": found.get("imported_from") or start.name, "licence": found.get("data", {}).get("licence", "")}


def _environment(context: DistributedContext, data: PreparedData) -> dict[str, Any]:
    """The content of environment.json: the machine, and what the model card says about the data."""
    total = data.counts["total"]
    return {
        "nmt_rela": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(context.device) if context.device.type == "cuda" else "cpu",
        "ranks": context.world_size,
        "kernels": gpu_backend_states(context.device) if context.device.type == "cuda" else {},
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "data": {"title": data.title, "licence": data.licence, "read": total["read"], "kept": total["kept"]},
    }
