"""What is reproduced: a task at a scale, with one run per attention variant and seed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from nmt_rela.checkpoints.checkpoint import list_checkpoints
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml, load_config, override_config
from nmt_rela.config.schema import AttentionName, Config
from nmt_rela.metrics.comet import check_metrics
from nmt_rela.training.run_setup import check_run_directory
from nmt_rela.utils.errors import CheckpointError, ConfigError, did_you_mean
from nmt_rela.utils.files import atomic_write, expand_user
from nmt_rela.utils.shipped import find_config

LOG = logging.getLogger(__name__)

#: The order of tables. The first is the baseline, to which the others are compared.
ATTENTION_VARIANTS = get_args(AttentionName)
BASELINE = ATTENTION_VARIANTS[0]

#: Task names and the configurations (in configs/) that they stand for.
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

#: What a scale changes in a task's configuration. ``paper`` changes nothing.
SCALES: dict[str, tuple[str, ...]] = {
    "paper": (),
    # Real text in hours on one GPU: a model size that suits 30,000 to 200,000 pairs per source.
    "small": (
        "data.max_pairs_per_source=200000", "data.vocabulary_size=16000",
        "model.encoder_layers=3", "model.decoder_layers=3", "model.d_model=256", "model.ffn_dim=1024",
        "model.num_heads=4", "training.max_updates=20000", "training.update_tokens=8192",
        "training.lr_schedule=noam", "training.learning_rate=1.0", "training.warmup_updates=2000",
        "training.validate_every=1000", "training.validation_decode_sentences=500", "training.save_every=1000",
    ),
    # Every step in minutes: it shows that the steps work, and nothing about attention. Fewer updates would give empty
    # translations.
    "smoke": (
        "data.max_pairs_per_source=1000", "data.vocabulary_size=4000",
        "model.encoder_layers=2", "model.decoder_layers=2", "model.d_model=32", "model.ffn_dim=64",
        "model.num_heads=4", "training.max_updates=200", "training.update_tokens=2048",
        "training.lr_schedule=noam", "training.learning_rate=0.1", "training.warmup_updates=20",
        "training.log_every=20", "training.validate_every=100",
        "training.validation_decode_sentences=10", "training.save_every=20",
        "decoding.max_length_offset=0",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One model: its run directory, and the overrides with which nmt-train trains it (none if it exists already)."""

    config: Config
    arguments: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.config.run_dir)

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.path.name

    @property
    def checkpoint(self) -> Path:
        """What is scored: the average that the steps make, or the default checkpoint of a run that existed."""
        return self.path / "average" if self.arguments else RunDirectory(self.path).checkpoint()

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.config.training.seed

    @property
    def attention(self) -> str:
        """The attention variant, or the three variants where the sites differ."""
        return str(self.config.model.attention)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """The runs of one report."""

    name: str
    scale: str
    output: Path
    #: The configuration that the runs have in common.
    config: Config
    #: The file of ``config`` that the commands name.
    config_file: Path
    runs: tuple[Run, ...]
    #: Source, target and word links of a text for the alignment error rate.
    gold: tuple[Path, Path, Path] | None = None
    #: The links have the target word first.
    gold_reversed: bool = False
    #: Parts of the report to leave out: significance, speed, analysis.
    skip: frozenset[str] = frozenset()

    @property
    def records(self) -> Path:
        """The directory of the records of finished steps."""
        return self.output / "steps"

    @property
    def variants(self) -> list[str]:
        """The attention variants, in the order of tables."""
        return list(dict.fromkeys(run.attention for run in self.runs))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the runs."""
        return list(dict.fromkeys(run.seed for run in self.runs))

    def of_seed(self, seed: int) -> list[Run]:
        """The runs of a seed, the baseline first."""
        return [run for run in self.runs if run.seed == seed]


def config_of_task(task: str) -> Path:
    """The configuration of a task: a name of ``TASKS``, or the path of a YAML file. Raises ConfigError."""
    if task.endswith((".yaml", ".yml")):
        return Path(expand_user(task))
    if task not in TASKS:
        raise ConfigError(f"task: unknown '{task}'; {did_you_mean(task, TASKS)} (or the path of a configuration)")
    return find_config(TASKS[task])


def new_experiment(
    task: str,
    *,
    scale: str,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    output: Path | None,
) -> Experiment:
    """Runs to be trained: every variant with every seed (default: that of the configuration).

    Raises ConfigError, also for an output whose runs cannot be continued with these settings.
    """
    file = config_of_task(task)
    name = file.stem
    if output is None:
        output = Path("runs/reproduce") / (name if scale == "paper" else f"{name}.{scale}")
    config = load_config(file, [*SCALES[scale], *overrides, f"run_dir={output / 'run'}"])
    runs = []
    for seed in seeds or [config.training.seed]:
        for variant in sorted(variants, key=ATTENTION_VARIANTS.index):
            own = (f"model.attention={variant}", f"training.seed={seed}", f"run_dir={output / variant}.seed{seed}")
            run = Run(config=override_config(config, own), arguments=own)
            check_run_directory(run.config)
            check_metrics(run.config.evaluation.metrics, "evaluation.metrics")
            runs.append(run)
    return Experiment(
        name=name,
        scale=scale,
        output=output,
        config=config,
        config_file=output / "experiment.yaml",
        runs=tuple(runs),
    )


def existing_experiment(
    task: str, directory: Path, *, variants: Sequence[str], seeds: Sequence[int], output: Path | None
) -> Experiment:
    """Runs of the task that exist in the sub-directories of ``directory``. Nothing is trained.

    Raises ConfigError if there is none.
    """
    wanted = load_config(config_of_task(task), ["run_dir=unused"]).data
    direction = (wanted.task, wanted.source_language, wanted.target_language)
    runs = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if not RunDirectory(path).config_file.is_file():
            continue
        try:
            run = Run(config=replace(RunDirectory(path).config(), run_dir=str(path)))
        except (ConfigError, CheckpointError) as error:
            LOG.warning("%s: left out, its configuration cannot be read: %s", path, error)
            continue
        found = run.config.data
        if (found.task, found.source_language, found.target_language) != direction:
            reason = f"it is a run of {found.task}, {found.source_language}-{found.target_language}"
        elif not list_checkpoints(RunDirectory(path).checkpoints):
            reason = "it has no checkpoint"
        elif run.attention in ATTENTION_VARIANTS and run.attention not in variants:
            reason = f"{run.attention} is not asked for"
        elif seeds and run.seed not in seeds:
            reason = f"seed {run.seed} is not asked for"
        else:
            runs.append(run)
            continue
        LOG.info("%s: left out, %s", path, reason)
    if not runs:
        raise ConfigError(
            f"--runs {directory}: found no run of {wanted.task}, {wanted.source_language} to {wanted.target_language}"
        )
    order = {variant: rank for rank, variant in enumerate(ATTENTION_VARIANTS)}
    runs.sort(key=lambda run: (run.seed, order.get(run.attention, len(order)), run.name))
    return Experiment(
        name=config_of_task(task).stem,
        scale="existing",
        output=output or directory / "report",
        config=runs[0].config,
        config_file=runs[0].path / "config.yaml",
        runs=tuple(runs),
    )


def write_config(experiment: Experiment) -> None:
    """Write the configuration that the commands name, unless it is that of an existing run."""
    if experiment.config_file.parent == experiment.output:
        with atomic_write(experiment.config_file) as stream:
            stream.write(config_to_yaml(experiment.config).encode("utf-8"))
