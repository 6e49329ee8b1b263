"""What a run directory holds, and how a model is loaded from it.

    config.yaml (resolved) · environment.json · tokenizer/ · checkpoints/step_*/ · average · best · last
    metrics.jsonl · tensorboard/ · samples/ · train.log

It is complete in itself and can be copied to another machine.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_state, load_tensors, verify_checkpoint
from nmt_rela.checkpoints.safetensors_io import read_weights
from nmt_rela.config.loader import config_from_yaml
from nmt_rela.config.schema import Config, ModelConfig
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import CheckpointError, did_you_mean

log = logging.getLogger("nmt_rela")

AVERAGE = "average"
#: A run directory of this file instead of checkpoints is an exported one.
EXPORTED = "model.safetensors"


class RunDirectory:
    """The paths of one run. Making the object touches no file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.tokenizer = self.path / "tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "train.log"
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tensorboard"
        self.environment = self.path / "environment.json"
        self.profile = self.path / "profile"
        self.lock = self.path / ".lock"

    def config(self) -> Config:
        """The run's resolved configuration. Raises CheckpointError when this is no run directory."""
        if not self.config_file.is_file():
            raise CheckpointError(f"{self.path}: not a run directory, it has no config.yaml")
        return config_from_yaml(self.config_file.read_text(encoding="utf-8"), str(self.config_file))

    def vocabularies(self) -> TokenizerPair:
        """The run's sub-word models."""
        return TokenizerPair.load(self.tokenizer)

    def names(self) -> list[str]:
        """What ``checkpoint`` accepts, the default first. An average made before the newest checkpoint comes last."""
        steps = [path.name for path in list_checkpoints(self.checkpoints)]
        names = [name for name in ("best", "last", EXPORTED) if (self.path / name).exists()] + steps
        if (self.path / AVERAGE).exists():
            names.insert(len(names) if self._average_is_old(steps) else 0, AVERAGE)
        return names

    def _average_is_old(self, steps: list[str]) -> bool:
        try:
            state = load_state(self.path / AVERAGE)
        except CheckpointError:  # whoever loads it will be told
            return False
        known = state.get("newest", max(state.get("averaged", ["step_"])))
        return bool(steps) and steps[-1] > known

    def checkpoint(self, name: str | None = None) -> Path:
        """The directory of a checkpoint: average, best, last or step_N; by default the first of these that exists. An
        average that is older than the newest checkpoint must be asked for.

        Raises CheckpointError with the names there are.
        """
        names = self.names()
        if not names:
            raise CheckpointError(f"{self.path}: no checkpoint yet")
        if name is None:
            name = names[0]
            if AVERAGE in names and name != AVERAGE:
                log.warning("%s is older than the newest checkpoint; taking %s", self.path / AVERAGE, name)
        if name not in names:
            raise CheckpointError(f"{self.path}: no checkpoint '{name}'; {did_you_mean(name, names)}")
        return (self.checkpoints if name.startswith("step_") else self.path) / name

    def point(self, name: str, checkpoint: str | None) -> None:
        """Let ``average``, ``best`` or ``last`` name one of ``checkpoints``, or nothing, in one atomic step."""
        link, temporary = self.path / name, self.path / f".{name}.tmp"
        if link.is_dir() and not link.is_symlink():  # a copy of the checkpoint, as scp and the like make of links
            shutil.rmtree(link)
        if checkpoint is None:
            link.unlink(missing_ok=True)
            return
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(self.checkpoints.name) / checkpoint)
        os.replace(temporary, link)

    def load_model(self, name: str | None = None, *, device: str | torch.device = "cpu") -> Transformer:
        """The model of a checkpoint, verified, in evaluation mode.

        Raises CheckpointError when it is damaged, or belongs to another vocabulary or configuration.
        """
        model = build_model(self.config().model, self.vocabularies())
        self.load_into(model, name)
        return model.to(device).eval()

    def load_into(self, model: Transformer, name: str | None = None) -> Path:
        """Load the weights of a checkpoint, verified, into a model; return the checkpoint.

        Raises CheckpointError when it is damaged, or belongs to another vocabulary or configuration.
        """
        checkpoint, vocabulary = self.checkpoint(name), self.vocabularies().fingerprint
        if checkpoint.name == EXPORTED:
            read_weights(checkpoint, model, vocabulary=vocabulary)
            return checkpoint
        verify_checkpoint(checkpoint)
        if load_state(checkpoint).get("vocabulary") != vocabulary:
            raise CheckpointError(f"{checkpoint}: made with another vocabulary than {self.tokenizer}")
        load_weights(model, checkpoint)
        return checkpoint


def build_model(config: ModelConfig, vocabularies: TokenizerPair) -> Transformer:
    """A freshly initialised model."""
    return Transformer(vocabularies.source.size, vocabularies.target.size, **asdict(config))


def load_weights(model: Transformer, directory: Path) -> None:
    """Load a checkpoint's weights. Raises CheckpointError naming the first parameter that does not fit."""
    weights = load_tensors(directory, "model")
    expected = model.state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        found = list(weights[name].shape) if name in weights else "missing"
        wanted = list(expected[name].shape) if name in expected else "not part of this model"
        if found != wanted:
            raise CheckpointError(f"{directory}: parameter {name} is {found} in the checkpoint, {wanted} by the config")
    model.load_state_dict(weights)
