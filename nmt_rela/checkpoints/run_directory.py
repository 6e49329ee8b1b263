"""The run directory: its files, and models loaded from it.

    config.yaml (resolved) · environment.json · tokenizer/ · checkpoints/step_*/ · average · best · last
    metrics.jsonl · learning_curve.png · tensorboard/ · samples/ · train.log

It needs nothing outside itself and can be copied to another machine.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from nmt_rela.checkpoints.checkpoint import (
    describe_tensor,
    list_checkpoints,
    load_parameters,
    load_state,
    verify_checkpoint,
)
from nmt_rela.checkpoints.safetensors_io import read_weights
from nmt_rela.config.loader import config_from_yaml
from nmt_rela.config.schema import Config, ModelConfig
from nmt_rela.data.tokenizer import BOS, PAD, TokenizerPair
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import CheckpointError, did_you_mean
from nmt_rela.utils.files import CHECKSUMS, first_damaged_file, read_regular

LOG = logging.getLogger(__name__)

AVERAGE = "average"
#: Settings of the model in which a run may differ from the one whose weights it starts from.
_MAY_DIFFER = frozenset({"attention", "dropout", "embedding_dropout", "attention_dropout", "ffn_dropout"})
#: An exported run directory has this file instead of checkpoints.
EXPORTED = "model.safetensors"


class RunDirectory:
    """The paths of one run. The constructor reads and writes nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.expanduser(path))
        self.config_file = self.path / "config.yaml"
        self.tokenizer = self.path / "tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.learning_curve = self.path / "learning_curve.png"
        self.log = self.path / "train.log"
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tensorboard"
        self.environment = self.path / "environment.json"
        self.profile = self.path / "profile"
        self.epochs = self.path / "epochs"
        self.lock = self.path / ".lock"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def config(self) -> Config:
        """The run's resolved configuration. Raises CheckpointError if this is no run directory."""
        if not self.config_file.is_file():
            raise CheckpointError(f"{self.path}: not a run directory, it has no config.yaml")
        try:
            text = read_regular(self.config_file).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self.config_file}: damaged, it cannot be read as text: {error}") from None
        return config_from_yaml(text, str(self.config_file))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, without lines that a kill or a full disk has cut short."""
        found = []
        for line in read_regular(self.metrics).split(b"\n") if self.metrics.exists() else []:
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line))
        return [record for record in found if isinstance(record, dict)]

    def directory_of_results(self, *names: str) -> Path:
        """A directory that a command writes by default. Raises CheckpointError if a link leads out of the run."""
        path = self.path.joinpath(*names)
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise CheckpointError(f"{path}: a link leads out of the run, results are not written through it; remove it")
        return path

    def load_tokenizers(self) -> TokenizerPair:
        """The run's sub-word models."""
        return TokenizerPair.load(self.tokenizer)

    def available_checkpoints(self) -> list[str]:
        """The names that `checkpoint` accepts, the default first; an average older than the newest checkpoint last.

        Without ``average``, ``best`` and ``last`` (links are lost by some ways of copying) the newest one is first.
        """
        steps = [path.name for path in reversed(list_checkpoints(self.checkpoints))]
        names = [name for name in ("best", "last", EXPORTED) if (self.path / name).exists()] + steps
        if (self.path / AVERAGE).exists():
            names.insert(len(names) if self._is_average_stale(steps) else 0, AVERAGE)
        return names

    def _is_average_stale(self, steps: list[str]) -> bool:
        try:
            return bool(steps) and steps[0] > load_state(self.path / AVERAGE).get("newest", "")
        except CheckpointError:  # loading it will report the fault
            return False

    def checkpoint(self, name: str | None = None) -> Path:
        """The directory of a checkpoint: average, best, last or step_N.

        The default is the first of these that exists, but not an average that is older than the newest checkpoint.
        Raises CheckpointError with the existing names.
        """
        names = self.available_checkpoints()
        if not names:
            raise CheckpointError(f"{self.path}: no checkpoint yet")
        if name is None:
            name = names[0]
            if AVERAGE in names and name != AVERAGE:
                LOG.warning("%s is older than the newest checkpoint; using %s", self.path / AVERAGE, name)
            if name.startswith("step_"):
                name = next((step for step in names if self._is_intact(step)), name)
                LOG.warning("%s has none of the links average, best and last; using checkpoint %s", self.path, name)
        if number := re.fullmatch(r"step_0*(\d+)", name):  # with any number of zeros
            name = next((step for step in names if re.fullmatch(rf"step_0*{number[1]}", step)), name)
        if name not in names:
            raise CheckpointError(f"{self.path}: no checkpoint '{name}'; {did_you_mean(name, names)}")
        return (self.checkpoints if name.startswith("step_") else self.path) / name

    def _is_intact(self, step: str) -> bool:
        try:
            verify_checkpoint(self.checkpoints / step)
        except CheckpointError as error:
            LOG.warning("%s; using the checkpoint before it", error)
            return False
        return True

    def link_checkpoint(self, name: str, checkpoint: str | None) -> None:
        """Point the link ``average``, ``best`` or ``last`` at one of ``checkpoints``, atomically; None removes it."""
        link, temporary = self.path / name, self.path / f".{name}.tmp"
        if link.is_dir() and not link.is_symlink():  # tools such as scp copy links as directories
            shutil.rmtree(link)
        if checkpoint is None:
            link.unlink(missing_ok=True)
            return
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(self.checkpoints.name) / checkpoint)
        os.replace(temporary, link)

    def load_model(self, name: str | None = None, *, device: str | torch.device = "cpu") -> Transformer:
        """The model of a checkpoint, verified, in evaluation mode.

        Raises CheckpointError if it is damaged or belongs to another vocabulary or configuration.
        """
        model = build_model(self.config().model, self.load_tokenizers())
        self.load_weights_into(model, name)
        return model.to(device).eval()

    def load_weights_into(self, model: Transformer, name: str | None = None) -> Path:
        """Load the weights of a verified checkpoint into a model; return the checkpoint.

        Raises CheckpointError if it is damaged or belongs to another vocabulary or configuration.
        """
        checkpoint, vocabulary = self.checkpoint(name), self.load_tokenizers().fingerprint
        if checkpoint.name == EXPORTED:
            if damaged := first_damaged_file(self.path):
                raise CheckpointError(
                    f"{damaged}: damaged, its checksum is not that of {CHECKSUMS}; export again "
                    f"(after a change of your own, delete {CHECKSUMS})"
                )
            read_weights(checkpoint, model, vocabulary=vocabulary)
            return checkpoint
        present = checkpoint.resolve()
        try:
            self._load_verified(model, checkpoint, vocabulary)
        except CheckpointError:
            if checkpoint.resolve() == present:
                raise
            self._load_verified(model, checkpoint, vocabulary)  # training has moved the link meanwhile
        return checkpoint

    def initialize(self, model: Transformer, config: ModelConfig) -> Path:
        """Load the weights into a model of other attention or dropout (``config``); return the checkpoint.

        Norms and gates of ReLA that this run does not have stay as they are. Raises CheckpointError where another
        setting differs, or as `load_weights_into`.
        """
        own = self.config().model
        differing = [
            f"model.{item.name} is {getattr(own, item.name)}, not {getattr(config, item.name)}"
            for item in fields(config)
            if item.name not in _MAY_DIFFER and getattr(own, item.name) != getattr(config, item.name)
        ]
        if differing:
            accepted = "the same model; attention and dropout may differ"
            raise CheckpointError(f"{self.config_file}: {', '.join(differing)}; accepted: {accepted}")
        trained = build_model(own, self.load_tokenizers())
        checkpoint = self.load_weights_into(trained)
        weights = trained.state_dict()
        model.load_state_dict({name: weights.get(name, start) for name, start in model.state_dict().items()})
        return checkpoint

    def _load_verified(self, model: Transformer, checkpoint: Path, vocabulary: str) -> None:
        verify_checkpoint(checkpoint)
        state = load_state(checkpoint)
        if state.get("vocabulary") != vocabulary:
            raise CheckpointError(f"{checkpoint}: made with another vocabulary than {self.tokenizer}")
        recorded = recorded_settings(checkpoint)
        for path, value in settings_to_record(self.config()).items():
            if recorded.get(path, value) == value or path.startswith(("training.", "evaluation.")):
                continue
            fault = f"{self.config_file}: {path}: found {value}, but {checkpoint} was made with {recorded[path]}"
            if path.startswith(("data.", "model.")):  # under others the weights mean something else
                raise CheckpointError(f"{fault}; set it back")
            LOG.warning("%s", fault)
        load_weights(model, checkpoint)


def settings_to_record(config: Config) -> dict[str, Any]:
    """All settings but the places of files, by their paths, as JSON values for a checkpoint."""
    sections = {name: section for name, section in asdict(config).items() if isinstance(section, dict)}
    paths = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    del paths["data.task"], paths["data.data_dir"], paths["data.vocabulary"]
    values: dict[str, Any] = json.loads(json.dumps(paths))
    return values


def recorded_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings that a checkpoint was made with, by their paths; empty where it is damaged or records none."""
    try:
        settings = load_state(checkpoint).get("config")
    except CheckpointError:
        return {}
    return settings if isinstance(settings, dict) else {}


def build_model(config: ModelConfig, tokenizers: TokenizerPair) -> Transformer:
    """A freshly initialized model."""
    sizes = tokenizers.source.size, tokenizers.target.size
    return Transformer(*sizes, pad_id=PAD, bos_id=BOS, **asdict(config))


def load_weights(model: Transformer, directory: Path) -> None:
    """Load a checkpoint's weights. Raises CheckpointError with the first parameter that does not fit."""
    weights = load_parameters(directory)
    expected = model.state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        found = describe_tensor(weights[name]) if name in weights else "missing"
        wanted = describe_tensor(expected[name]) if name in expected else "not part of this model"
        if found != wanted:
            raise CheckpointError(f"{directory}: parameter {name} is {found} in the checkpoint, {wanted} by the config")
    model.load_state_dict(weights)
