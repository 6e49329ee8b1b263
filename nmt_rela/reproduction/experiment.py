"""What is to be run: a task, a scale, and one run for every attention kind and seed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from nmt_rela.checkpoints.checkpoint import list_checkpoints
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml, load_config, override_config
from nmt_rela.config.schema import AttentionBySite, AttentionKind, Config
from nmt_rela.utils.errors import CheckpointError, ConfigError, did_you_mean
from nmt_rela.utils.files import atomic_write

log = logging.getLogger("nmt_rela.reproduction")

REPOSITORY = Path(__file__).resolve().parents[2]
#: The order of tables; the first is what the others are compared with.
ATTENTION_VARIANTS = get_args(AttentionKind)
BASELINE = ATTENTION_VARIANTS[0]

#: Tasks by the names they go by; each is a file in configs/.
TASKS = {
    "wmt14": "wmt14-en-de",
    "wmt14-en-de": "wmt14-en-de",
    "wmt14-en-fr": "wmt14-en-fr",
    "wmt18-en-fi": "wmt18-en-fi",
    "wmt18-zh-en": "wmt18-zh-en",
    "wmt16-ro-en": "wmt16-ro-en",
    "multi30k": "multi30k-en-de",
    "multi30k-en-de": "multi30k-en-de",
    "multi30k-en-fr": "multi30k-en-fr",
    "demo": "demo",
}

#: What a scale changes in a task's configuration; ``paper`` changes nothing.
SCALES: dict[str, tuple[str, ...]] = {
    "paper": (),
    # Real text in hours on one GPU: the size of model that learns 30,000 to 200,000 pairs a source well.
    "small": (
        "data.max_pairs_per_source=200000", "data.vocabulary_size=16000",
        "model.encoder_layers=3", "model.decoder_layers=3", "model.dimension=256", "model.feed_forward=1024",
        "model.heads=4", "training.max_updates=20000", "training.batch_tokens=8192", "training.accumulate=1",
        "training.lr_schedule=noam", "training.learning_rate=1.0", "training.warmup_updates=2000",
        "training.validate_every=1000", "training.validation_decode_sentences=500", "training.save_every=1000",
    ),
    # Every step on little of everything, in minutes: shows that it works, and nothing about attention. Fewer updates
    # would make for empty translations.
    "smoke": (
        "data.max_pairs_per_source=1000", "data.vocabulary_size=4000",
        "model.encoder_layers=2", "model.decoder_layers=2", "model.dimension=32", "model.feed_forward=64",
        "model.heads=4", "training.max_updates=200", "training.batch_tokens=2048", "training.accumulate=1",
        "training.lr_schedule=noam", "training.learning_rate=0.1", "training.warmup_updates=20",
        "training.log_every=20", "training.validate_every=100",
        "training.validation_decode_sentences=10", "training.save_every=20",
        "decoding.max_length_offset=0",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One model: its run directory, and the overrides nmt-train makes it with (none where it is there already)."""

    name: str
    kind: str
    seed: int
    path: Path
    config: Config
    arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """A text with gold word links, for the alignment error rate."""

    source: Path
    target: Path
    links: Path
    #: The links have the target word first.
    is_reversed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Runs that belong into one report."""

    name: str
    scale: str
    output: Path
    #: What all runs share, in full.
    config: Config
    #: Where it stands, or will stand, so that commands can name it.
    config_file: Path
    runs: tuple[Run, ...]
    gold: Gold | None = None
    #: Parts of the report that are not wanted: significance, speed, analysis.
    skip: frozenset[str] = frozenset()

    @property
    def kinds(self) -> list[str]:
        """The attention kinds, in the order of tables."""
        return list(dict.fromkeys(run.kind for run in self.runs))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the runs."""
        return list(dict.fromkeys(run.seed for run in self.runs))

    def of_seed(self, seed: int) -> list[Run]:
        """The runs of a seed, the baseline first."""
        return [run for run in self.runs if run.seed == seed]


def configuration_of(task: str) -> Path:
    """The configuration of a task: a name of ``TASKS``, or the path of a YAML file. Raises ConfigError."""
    if task.endswith((".yaml", ".yml")):
        return Path(task)
    if task not in TASKS:
        raise ConfigError(f"task: unknown '{task}'; {did_you_mean(task, TASKS)} (or the path of a configuration)")
    return relative(REPOSITORY / "configs" / f"{TASKS[task]}.yaml")


def new_experiment(
    task: str,
    *,
    scale: str,
    kinds: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    output: Path | None,
    gpus: int,
) -> Experiment:
    """The runs to be trained: every kind with every seed (by default the configuration's). Raises ConfigError."""
    file = configuration_of(task)
    name = file.stem
    if output is None:
        output = Path("runs/reproduce") / (name if scale == "paper" else f"{name}.{scale}")
    config = load_config(file, [*SCALES[scale], *overrides, f"run_dir={output / 'run'}"])
    runs = []
    for seed in seeds or [config.training.seed]:
        for kind in sorted(kinds, key=ATTENTION_VARIANTS.index):
            path = output / f"{kind}.seed{seed}"
            own = [f"model.attention={kind}", f"training.seed={seed}", f"run_dir={path}"]
            own += _shared_by(gpus, config, path) if gpus > 1 else []
            runs.append(
                Run(
                    name=path.name, kind=kind, seed=seed, path=path, config=override_config(config, own),
                    arguments=tuple(own),
                )
            )  # fmt: skip
    return Experiment(
        name=name,
        scale=scale,
        output=output,
        config=config,
        config_file=output / "experiment.yaml",
        runs=tuple(runs),
    )


def _shared_by(gpus: int, config: Config, run: Path) -> list[str]:
    """As many tokens an update as the configuration says, in micro-batches that all GPUs can share.

    A run that was begun on other GPUs keeps the micro-batches it has, where these GPUs can share them.
    """
    begun = RunDirectory(run)
    training = begun.config().training if begun.config_file.is_file() else config.training
    accumulate, tokens = training.accumulate, training.batch_tokens
    if accumulate % gpus:
        rounds = -(-accumulate // gpus)
        accumulate, tokens = rounds * gpus, accumulate * tokens // (rounds * gpus)
    if (accumulate, tokens) == (config.training.accumulate, config.training.batch_tokens):
        return []
    return [f"training.accumulate={accumulate}", f"training.batch_tokens={tokens}"]


def adopted_experiment(
    task: str, directory: Path, *, kinds: Sequence[str], seeds: Sequence[int], output: Path | None
) -> Experiment:
    """Runs that exist already: the sub-directories of a directory that are runs of the task. Nothing is trained.

    Raises ConfigError when there is none.
    """
    wanted = load_config(configuration_of(task), ["run_dir=unused"]).data
    runs = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if not RunDirectory(path).config_file.is_file():
            continue
        try:
            config = RunDirectory(path).config()
        except (ConfigError, CheckpointError) as error:
            log.warning("%s: left out, its configuration cannot be read: %s", path, error)
            continue
        data, kind = config.data, kind_of(config)
        reason = (
            f"it is a run of {data.task}, {data.source_language}-{data.target_language}"
            if (data.task, data.source_language, data.target_language)
            != (wanted.task, wanted.source_language, wanted.target_language)
            else "it has no checkpoint"
            if not list_checkpoints(RunDirectory(path).checkpoints)
            else f"{kind} is not asked for"
            if kind in ATTENTION_VARIANTS and kind not in kinds
            else f"seed {config.training.seed} is not asked for"
            if seeds and config.training.seed not in seeds
            else ""
        )
        if reason:
            log.info("%s: left out, %s", path, reason)
            continue
        runs.append(Run(name=path.name, kind=kind, seed=config.training.seed, path=path, config=config, arguments=()))
    if not runs:
        raise ConfigError(
            f"--runs {directory}: no run of {wanted.task}, {wanted.source_language} to {wanted.target_language}, in it"
        )
    order = {kind: place for place, kind in enumerate(ATTENTION_VARIANTS)}
    runs.sort(key=lambda run: (run.seed, order.get(run.kind, len(order)), run.name))
    return Experiment(
        name=configuration_of(task).stem,
        scale="adopted",
        output=output or directory / "report",
        config=runs[0].config,
        config_file=runs[0].path / "config.yaml",
        runs=tuple(runs),
    )


def write_configuration(experiment: Experiment) -> None:
    """Leave the configuration that the commands name, unless it is that of a run which exists already."""
    if experiment.config_file.parent == experiment.output:
        with atomic_write(experiment.config_file) as stream:
            stream.write(config_to_yaml(experiment.config).encode("utf-8"))


def kind_of(config: Config) -> str:
    """A run's attention kind, or its three kinds where the sites differ."""
    attention = config.model.attention
    if isinstance(attention, AttentionBySite):
        return f"{attention.encoder}/{attention.decoder}/{attention.cross}"
    return attention


def relative(path: Path) -> Path:
    """A path as a person in the working directory would type it."""
    inside = os.path.relpath(path)
    return path if inside.startswith("..") else Path(inside)
