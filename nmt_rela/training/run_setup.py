"""Opening a run directory for training: a new run, or the continuation of one that fits."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from pathlib import Path

import torch

from nmt_rela import __version__
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.checkpoints.run_lock import RunLock
from nmt_rela.config.loader import config_to_yaml, diff_configs
from nmt_rela.config.schema import Config
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.files import atomic_write

log = logging.getLogger("nmt_rela.training")

#: Settings that may change when a run is continued: they decide how long it goes on and what is written down,
#: not what an update does. Everything else would make it another experiment.
RESUME_MUTABLE_KEYS = frozenset(
    {
        "run_dir",
        "data.data_dir",
        "training.max_updates",
        "training.max_epochs",
        "training.max_hours",
        "training.max_consecutive_nonfinite_updates",
        "training.log_every",
        "training.validate_every",
        "training.validation_decode_sentences",
        "training.save_every",
        "training.keep_last_checkpoints",
        "training.keep_best_checkpoints",
        "training.patience",
        "training.profile_updates",
        "training.device",
    }
)


def prepare_run_directory(
    config: Config, data: PreparedData, ranks: DistributedContext, lock: RunLock, *, restart: bool
) -> Path | None:
    """Make the run's directory, or find it made; the checkpoint to continue from, None for a new run. The main rank
    calls this, and nobody else trains the run while the lock is kept.

    Raises ConfigError when the directory is in use, holds a run with settings that matter and differ, or something
    else; CheckpointError when none of its checkpoints is intact.
    """
    run = RunDirectory(config.run_dir)
    if not run.config_file.exists() and run.path.is_dir() and any(map(_is_foreign, run.path.iterdir())):
        raise ConfigError(
            f"run_dir: {run.path} is a directory that holds something other than a run; choose another name"
        )
    lock.acquire(run.lock)
    if restart and run.config_file.exists():
        log.info("the earlier run is now %s", _move_aside(run.path))
        lock.acquire(run.lock)
    checkpoint = CheckpointManager(run, config.training).latest_valid()
    if run.config_file.exists():
        _check_fits(run, config, resume=checkpoint is not None)
    # First of all, and whole: it is what makes the directory a run, which a kill must not leave half said.
    with atomic_write(run.config_file) as file:
        file.write(config_to_yaml(config).encode("utf-8"))
    run.checkpoints.mkdir(exist_ok=True)
    TokenizerPair.load(data.tokenizer).save(run.tokenizer)
    run.environment.write_text(json.dumps(_environment(ranks), indent=1) + "\n", encoding="utf-8")
    return checkpoint


def _is_foreign(path: Path) -> bool:
    """Whether a file is none that a kill may have left of a run that had hardly begun."""
    return not path.name.startswith(".lock") and not path.name.startswith(".config.yaml")


def _check_fits(run: RunDirectory, config: Config, *, resume: bool) -> None:
    changed = diff_configs(run.config(), config)
    for difference in changed:
        log.info("%s: was %s, is %s now", difference.path, difference.old, difference.new)
    refused = [
        f"{d.path} ({d.old} → {d.new})"
        for d in changed
        if d.path not in RESUME_MUTABLE_KEYS and not d.path.startswith("decoding.")
    ]
    if resume and refused:
        raise ConfigError(
            f"{run.config_file}: this run was begun with other settings: {', '.join(refused)}; "
            "set them back, choose another run_dir=…, or start over with --restart"
        )


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    shutil.move(path, aside)
    return aside


def _environment(ranks: DistributedContext) -> dict[str, str | int]:
    return {
        "nmt_rela": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu",
        "ranks": ranks.size,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
