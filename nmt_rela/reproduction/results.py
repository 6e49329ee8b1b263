"""The results of an experiment, read from the files that its steps wrote, as plain values for the report."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import Any

from nmt_rela.checkpoints.checkpoint import weights_checksum
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml, diff_configs, override_config
from nmt_rela.config.schema import Config, EvaluationConfig
from nmt_rela.generation.evaluation import read_entries
from nmt_rela.metrics.translation import LABELS
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.reporting.run_summary import summarize
from nmt_rela.reporting.significance import intervals_of
from nmt_rela.reproduction.experiment import BASELINE, Experiment, Run
from nmt_rela.reproduction.steps import (
    analysis_directory,
    evaluation_directory,
    is_prepared,
    prepared_data,
    speed_file,
    test_names,
)
from nmt_rela.utils.files import read_json

LOG = logging.getLogger(__name__)

Tree = dict[str, Any]


def collect_results(experiment: Experiment) -> Tree:
    """Everything that exists, as JSON values; what is missing is None or empty.

    ``significance``: by test set, run and metric of sacreBLEU, an interval, and p against the softmax run of the same
    seed.
    ``curves``: validations by run. ``attention``: by run, sparsity, null rate and diversity by site, and AER by layer.
    ``speed``: the documents of the benchmarks.
    """
    speed = {what: read_json(speed_file(experiment, what)) for what in ("training", "decoding")}
    return {
        "task": _task(experiment),
        "runs": [_run(experiment, run) for run in experiment.runs],
        "significance": {} if "significance" in experiment.skip else _significance(experiment),
        "curves": {run.name: _validations(run) for run in experiment.runs},
        "attention": _attention(experiment),
        "settings_that_differ": _differing(experiment),
        "speed": {what: tree for what, tree in speed.items() if tree is not None},
    }


def actual_config(run: Run) -> Config:
    """The configuration that a run was trained with; before it starts, the one that it will have."""
    directory = RunDirectory(run.path)
    return directory.config() if directory.config_file.is_file() else run.config


def _task(experiment: Experiment) -> Tree:
    data = experiment.runs[0].config.data
    task = load_task(data.task)
    return {
        "name": experiment.name,
        "scale": experiment.scale,
        "title": task.title,
        "licence": task.licence,
        "source": data.source_language,
        "target": data.target_language,
        "tests": test_names(experiment),
        "counts": prepared_data(experiment.runs[0]).counts if is_prepared(experiment.runs[0]) else None,
    }


def _run(experiment: Experiment, run: Run) -> Tree:
    names = ("bleu_precisions", "sentences", "length_ratio", *LABELS, *(f"{name}_signature" for name in LABELS))
    return summarize(RunDirectory(run.path), run.checkpoint, run.config.training) | {
        "attention": run.attention,
        "other_settings": _other_settings(run),
        "scores": {
            test: {name: entry[name] for name in names if name in entry}
            for test, entry in _scores(experiment, run).items()
        },
    }


def _scores(experiment: Experiment, run: Run) -> dict[str, Tree]:
    """The scores of the present weights, with the run's own settings, by test set."""
    entries = read_entries(evaluation_directory(experiment, run) / "scores.json")
    weights = weights_checksum(run.checkpoint) if entries else None
    return {entry["name"]: entry for entry in entries if entry.get("weights") == weights}


def _validations(run: Run) -> list[Tree]:
    return [record for record in RunDirectory(run.path).read_metrics() if record["event"] == "validation"]


def _significance(experiment: Experiment) -> dict[str, dict[str, Tree]]:
    """The first run of a seed is the baseline only if it is a softmax run; otherwise there is no p."""
    found: dict[str, dict[str, Tree]] = {}
    for test in test_names(experiment):
        found[test] = {}
        for seed in experiment.seeds:
            runs = experiment.of_seed(seed)
            evaluations = [
                (run.name, evaluation_directory(experiment, run), entry)
                for run in runs
                if (entry := _scores(experiment, run).get(test)) is not None
            ]
            if not evaluations:
                continue
            intervals = intervals_of(evaluations)
            if next(run.attention for run in runs if run.name == evaluations[0][0]) != BASELINE:
                for interval in [found for metrics in intervals.values() for found in metrics.values()]:
                    interval["p"] = None
            found[test] |= intervals
    return found


def _attention(experiment: Experiment) -> dict[str, Tree]:
    found = {}
    for seed in experiment.seeds:
        tree = read_json(analysis_directory(experiment, seed) / "analysis.json")
        if tree is None:
            continue
        wanted = {run.name for run in experiment.of_seed(seed)}
        for row in tree["runs"]:
            if row["name"] in wanted:
                found[row["name"]] = {
                    "text": tree["text"]["name"],
                    "sites": {site["site"]: site for site in row["sites"]},
                    "aer": _error_rates(row["alignment"]) if row["alignment"] else None,
                }
    return found


def _error_rates(layers: list[Tree]) -> Tree:
    """By mode: AER per layer of the best head, and of the average of the heads."""
    return {
        mode: {
            "best": [min(head["aer"] for head in layer["heads"]) for layer in layers if layer["mode"] == mode],
            "average": [layer["average"]["aer"] for layer in layers if layer["mode"] == mode],
        }
        for mode in ("normal", "shifted")
    }


def _other_settings(run: Run) -> str:
    """A fingerprint of the settings that are neither the attention nor the seed: runs are pooled where it is equal."""
    config = actual_config(run)
    plain = override_config(
        replace(config, evaluation=EvaluationConfig()),
        ["run_dir=r", "data.data_dir=d", "model.attention=softmax", "training.seed=0"],
    )
    return hashlib.sha256(config_to_yaml(plain).encode("utf-8")).hexdigest()[:12]


def _differing(experiment: Experiment) -> list[str]:
    """Settings in which runs differ from the first one, other than those that should differ."""
    expected = {"run_dir", "model.attention", "training.seed", "data.data_dir"}
    first = actual_config(experiment.runs[0])
    return [
        f"{run.name}: {change.path} is {change.new}, in {experiment.runs[0].name} it is {change.old}"
        for run in experiment.runs[1:]
        for change in diff_configs(first, actual_config(run))
        if change.path not in expected
    ]
