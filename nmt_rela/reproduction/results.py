"""What an experiment has found, gathered from the files its steps left, as plain values for the report."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.checkpoint import load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import diff_configs
from nmt_rela.config.schema import Config
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.reproduction.experiment import BASELINE, Experiment, Run
from nmt_rela.reproduction.steps import (
    analysis_directory,
    averaged_names,
    evaluation_directory,
    is_trained,
    prepared_data,
    significance_file,
    speed_file,
    test_names,
    updates_done,
)
from nmt_rela.utils.errors import DataError, UserError

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything the report says. Lists are empty, and values None, where a step has not been done."""

    task: Tree
    #: One a run: name, kind, seed, path, updates, whether its training is finished, parameters, scores by test set.
    runs: list[Tree]
    #: By test set and run: BLEU and chrF with their intervals, and p against the softmax run of the same seed.
    significance: dict[str, dict[str, Tree]]
    #: By run: validations (update, bleu, loss, perplexity).
    curves: dict[str, list[Tree]]
    #: By run: sparsity, null rate and diversity by site, and AER by layer.
    attention: dict[str, Tree]
    #: Plots of nmt-analyze by seed.
    plots: dict[int, Path]
    #: Rows of the training and of the decoding benchmark, and what they ran on.
    speed: dict[str, Tree]
    #: Settings in which runs differ beyond attention and seed.
    differing: list[str]

    def results(self) -> Tree:
        """What does not depend on the machine's speed, as JSON values."""
        return {
            "task": self.task,
            "runs": [{name: value for name, value in run.items() if name not in _OF_THE_MACHINE} for run in self.runs],
            "significance": self.significance,
            "curves": self.curves,
            "attention": self.attention,
            "settings_that_differ": self.differing,
        }


_OF_THE_MACHINE = ("path", "environment", "tokens_per_second")


def gather(experiment: Experiment) -> Findings:
    """Read everything there is."""
    return Findings(
        task=_task(experiment),
        runs=[_run(experiment, run) for run in experiment.runs],
        significance=_significance(experiment),
        curves={run.name: _validations(run) for run in experiment.runs},
        attention=_attention(experiment),
        plots={
            seed: plots
            for seed in experiment.seeds
            if (plots := analysis_directory(experiment, seed) / "plots").is_dir()
        },
        speed={
            what: tree for what in ("training", "decoding") if (tree := _read(speed_file(experiment, what))) is not None
        },
        differing=_differing(experiment),
    )


def baseline_of(experiment: Experiment, seed: int) -> Run | None:
    """The softmax run of a seed."""
    return next((run for run in experiment.of_seed(seed) if run.kind == BASELINE), None)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _task(experiment: Experiment) -> Tree:
    data = experiment.runs[0].config.data
    task = load_task(data.task)
    tree: Tree = {
        "name": experiment.name,
        "scale": experiment.scale,
        "title": task.title,
        "licence": task.licence,
        "source": data.source_language,
        "target": data.target_language,
        "tests": test_names(experiment),
    }
    try:
        return tree | {"counts": prepared_data(experiment.runs[0]).counts}
    except DataError:
        return tree | {"counts": None}


def _run(experiment: Experiment, run: Run) -> Tree:
    scores = _read(evaluation_directory(run) / "scores.json") or []
    kept = ("bleu", "bleu_precisions", "bleu_signature", "chrf", "chrf_signature", "sentences")
    return {
        "name": run.name,
        "kind": run.kind,
        "seed": run.seed,
        "path": str(run.path),
        "updates": updates_done(run),
        "finished": is_trained(run),
        "averaged": len(averaged_names(run)),
        "parameters": _parameters(run),
        # Runs that were scored by earlier versions have no length ratio.
        "scores": {
            row["name"]: {key: row[key] for key in kept} | {"length_ratio": row.get("length_ratio")} for row in scores
        },
        "tokens_per_second": _tokens_per_second(run),
        "environment": _read(RunDirectory(run.path).environment),
    }


def _parameters(run: Run) -> int | None:
    """Of the average, each shared matrix once."""
    try:
        tensors = load_tensors(run.path / "average", "model")
    except UserError:
        return None
    return sum({tensor.data_ptr(): tensor.numel() for tensor in tensors.values()}.values())


def _records(run: Run, event: str) -> list[Tree]:
    try:
        lines = RunDirectory(run.path).metrics.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if record.get("event") == event:
            found.append(record)
    return found


def _validations(run: Run) -> list[Tree]:
    kept = ("update", "bleu", "chrf", "loss", "perplexity")
    return [{key: record[key] for key in kept if key in record} for record in _records(run, "validation")]


def _tokens_per_second(run: Run) -> float | None:
    """The median over the run's own records: of its whole life, whatever else the machine did."""
    speeds = [record["target_tokens_per_second"] for record in _records(run, "train")]
    return statistics.median(speeds) if speeds else None


def _significance(experiment: Experiment) -> dict[str, dict[str, Tree]]:
    """The first system of a comparison is the baseline only where the seed has a softmax run."""
    found: dict[str, dict[str, Tree]] = {}
    for test in test_names(experiment):
        found[test] = {}
        for seed in experiment.seeds:
            tree = _read(significance_file(experiment, seed, test)) or {"systems": []}
            paired = baseline_of(experiment, seed) is not None
            for row in tree["systems"]:
                figures = {metric: dict(row[metric]) for metric in ("bleu", "chrf")}
                for metric in figures.values():
                    metric["p"] = metric["p"] if paired else None
                found[test][row["system"]] = figures
    return found


def _attention(experiment: Experiment) -> dict[str, Tree]:
    found = {}
    for seed in experiment.seeds:
        tree = _read(analysis_directory(experiment, seed) / "analysis.json")
        if tree is None:
            continue
        wanted = {run.name for run in experiment.of_seed(seed)}
        for row in tree["runs"]:
            if row["name"] not in wanted:
                continue
            found[row["name"]] = {
                "text": tree["text"]["name"],
                "sites": {site["site"]: site for site in row["sites"]},
                "aer": {
                    mode: {
                        "best": [
                            min(head["aer"] for head in layer["heads"])
                            for layer in row["alignment"]
                            if layer["mode"] == mode
                        ],
                        "average": [layer["average"]["aer"] for layer in row["alignment"] if layer["mode"] == mode],
                    }
                    for mode in ("normal", "shifted")
                }
                if row["alignment"]
                else None,
            }
    return found


def own_configuration(run: Run) -> Config:
    """The configuration a run was made with; before it is begun, the one it is to be made with."""
    directory = RunDirectory(run.path)
    return directory.config() if directory.config_file.is_file() else run.config


def _differing(experiment: Experiment) -> list[str]:
    """Settings in which runs differ from the first one, other than those that are meant to."""
    meant = {"run_dir", "model.attention", "training.seed", "data.data_dir"}
    first = own_configuration(experiment.runs[0])
    return [
        f"{run.name}: {difference.path} is {difference.new}, in {experiment.runs[0].name} it is {difference.old}"
        for run in experiment.runs[1:]
        for difference in diff_configs(first, own_configuration(run))
        if difference.path not in meant
    ]
