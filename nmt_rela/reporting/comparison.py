"""A comparison of any runs: scores of the sets that they share, curves, speed, and the settings that differ.

Nothing is written into the runs.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from nmt_rela.analysis import plots
from nmt_rela.analysis.learning_curve import panels_of_runs
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.builder import key_paths
from nmt_rela.config.loader import diff_configs
from nmt_rela.config.schema import Config
from nmt_rela.generation.evaluation import Entry, stored_scores
from nmt_rela.metrics.translation import LABELS, format_score, metrics_of
from nmt_rela.reporting.pages import figure, number, setting, table, write_pages
from nmt_rela.reporting.run_summary import machine, summarize
from nmt_rela.reporting.significance import intervals_of
from nmt_rela.utils.errors import CheckpointError, UserError
from nmt_rela.utils.progress import format_duration

LOG = logging.getLogger(__name__)

#: The name of a run, the directory of an evaluation, and one of its entries in scores.json.
Evaluation = tuple[str, Path, Entry]
#: Settings that say where files lie.
_LOCATIONS = ("run_dir", "data.data_dir")


@dataclass(frozen=True)
class _Run:
    """A run as the report names it."""

    name: str
    directory: RunDirectory

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return self.directory.read_metrics()

    @cached_property
    def checkpoint(self) -> Path | None:
        """The checkpoint that has scores, or else the default one; None where there is none yet."""
        names = self.directory.available_checkpoints()
        scored = next((directory for directory, _ in self.entries), None)
        return self.directory.checkpoint(scored or names[0]) if names else None

    @cached_property
    def entries(self) -> list[tuple[str, Entry]]:
        """The scores of the first checkpoint, in the order of preference, that has scores with the run's settings."""
        stored = list(stored_scores(self.directory))
        for name in self.directory.available_checkpoints():
            if found := [(directory, entry) for directory, entry in stored if directory == name]:
                return found
        return []


def compare_runs(paths: Sequence[Path], output: Path | None) -> tuple[str, list[Path]]:
    """The comparison as Markdown, and the files written: none without ``output``.

    Raises CheckpointError where a path is no run.
    """
    is_ambiguous = len({path.resolve().name for path in paths}) < len(paths)
    runs = [_Run(str(path) if is_ambiguous else path.resolve().name, RunDirectory(path)) for path in paths]
    configs = {run.name: run.directory.config() for run in runs}
    summaries = {
        run.name: summarize(run.directory, run.checkpoint, configs[run.name].training)
        | {"attention": str(configs[run.name].model.attention)}
        for run in runs
    }
    sections = [f"# Comparison of {', '.join(configs)}", *_runs(summaries), "## Translation quality", *_quality(runs)]
    sections += _curves(runs, output)
    sections += _settings(configs)
    text = "\n\n".join(sections) + "\n"
    return text, [] if output is None else write_pages(text, directory=output, name="comparison")


def _runs(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        [
            name, found["attention"], str(found["seed"]), number(found["parameters"], 0),
            f"{found['updates']:,}{'' if found['finished'] else ' (not finished)'}", found["checkpoint"],
            "–" if found["seconds"] is None else format_duration(found["seconds"]),
            number(found["tokens_per_second"], 0),
        ]
        for name, found in summaries.items()
    ]  # fmt: skip
    header = ["run", "attention", "seed", "parameters", "updates", "scored checkpoint", "trained for", "tokens/s"]
    yield table(header, rows, text_columns=2)
    machines = {name: machine(found["environment"]) for name, found in summaries.items() if found["environment"]}
    if len(set(machines.values())) == 1:
        yield f"Trained on: {next(iter(machines.values()))}."
    elif machines:
        described = "; ".join(f"{name}: {text}" for name, text in machines.items())
        yield f"Trained on different machines, so speeds cannot be compared. {described}."


def _quality(runs: Sequence[_Run]) -> Iterator[str]:
    """A table per test set and group of runs whose scores can be compared."""
    by_test: dict[str, list[Evaluation]] = {}
    for run in runs:
        for name, entry in run.entries:
            directory = run.directory.path / "evaluation" / name
            by_test.setdefault(entry["name"], []).append((run.name, directory, entry))
    for test, evaluations in by_test.items():
        yield f"### {test}"
        groups: dict[Any, list[Evaluation]] = {}
        for evaluation in evaluations:
            groups.setdefault(_comparison_key(evaluation, evaluations), []).append(evaluation)
        if len(groups) > 1:
            yield "Scores by different references, tokenizers or COMET models are not comparable: separate tables."
        for members in groups.values():
            yield from _score_table(members)
        named = {name for name, _, _ in evaluations}
        if missing := [run.name for run in runs if run.name not in named]:
            yield f"Without scores of this set: {', '.join(missing)}."
    for run in runs:
        if not run.entries:
            path = shlex.quote(str(run.directory.path))
            yield f"{run.name}: not evaluated yet; `nmt-evaluate --model {path}` does it."
    if by_test:
        yield (
            "Intervals (95 %) and p are sacreBLEU's bootstrap over 1,000 resampled test sets. p is the probability "
            "that resampling alone gives a difference to the first run of the table as large as the observed one. "
            "Neither covers the variation between seeds. Length is words of the translation per word of the reference."
        )


def _comparison_key(evaluation: Evaluation, others: Sequence[Evaluation]) -> tuple[Any, ...]:
    """What must be equal for scores to be comparable: references and tokenizer, and the signatures of the metrics that
    all have, without the version of sacreBLEU.
    """
    name, _, entry = evaluation
    shared = [metric for metric in metrics_of([entry]) if all(metric in other for _, _, other in others)]
    signatures = [re.sub(r"\|version:[^|]*", "", str(entry[f"{metric}_signature"])) for metric in shared]
    return entry.get("references_sha256", name), *signatures


def _score_table(members: Sequence[Evaluation]) -> Iterator[str]:
    metrics = metrics_of(entry for _, _, entry in members)
    intervals = intervals_of(members)
    header = ["run", "checkpoint"]
    for metric in metrics:
        header += [LABELS[metric]]
        header += ["interval", "p"] if metric in next(iter(intervals.values()), {}) else []
    rows = []
    for name, directory, entry in members:
        row = [name, directory.name]
        for metric in metrics:
            row.append(format_score(metric, entry))
            if interval := intervals.get(name, {}).get(metric):
                row += [f"{number(interval['low'], 2)}–{number(interval['high'], 2)}", number(interval["p"], 3)]
        speed = entry["sentences"] / entry["seconds"] if entry.get("seconds") else None
        rows.append([*row, number(entry.get("length_ratio"), 3), number(speed, 1)])
    yield table([*header, "length", "sentences/s"], rows, text_columns=2)
    signatures = [entry.get(f"{metric}_signature") for _, _, entry in members for metric in metrics]
    yield "Signatures: " + ", ".join(f"`{signature}`" for signature in dict.fromkeys(filter(None, signatures))) + "."
    if not intervals:
        yield "No intervals: translations or references are not stored; `nmt-evaluate` stores them."


def _curves(runs: Sequence[_Run], output: Path | None) -> Iterator[str]:
    records = {run.name: run.records for run in runs}
    panels = panels_of_runs(records)
    if not panels:
        return
    yield "## Learning curves on the development set"
    if output is not None:
        try:
            path = plots.save(plots.curves(panels, xlabel="updates"), output / "learning_curves")[0]
        except UserError as error:
            LOG.warning("%s", error)
        else:
            yield figure(path, output, "Loss and quality of single checkpoints on the development set.")
    metrics = ["loss", *metrics_of(chain.from_iterable(records.values()))]
    rows = []
    for name, of_run in records.items():
        if validations := [record for record in of_run if record["event"] == "validation"]:
            last = validations[-1]
            rows.append([name, f"{last['update']:,}", *(format_score(metric, last) for metric in metrics)])
    yield table(["run", "last validation at update", *(LABELS.get(metric, metric) for metric in metrics)], rows)
    vocabularies = {_fingerprint(run) for run in runs}
    if len(vocabularies) > 1:
        yield "The runs have different vocabularies, so their losses per token cannot be compared."


def _fingerprint(run: _Run) -> str | None:
    try:
        return run.directory.load_tokenizers().fingerprint
    except CheckpointError:
        return None


def _settings(configs: Mapping[str, Config]) -> Iterator[str]:
    yield "## Settings that differ"
    first = next(iter(configs.values()))
    differing = {change.path for config in configs.values() for change in diff_configs(first, config)}
    order = list(key_paths(Config))
    paths = sorted(
        differing.difference(_LOCATIONS),
        key=lambda path: next((i for i, known in enumerate(order) if path.startswith(known)), len(order)),
    )
    rows = [[f"`{path}`", *(setting(_value(config, path)) for config in configs.values())] for path in paths]
    yield table(["setting", *configs], rows, text_columns=1 + len(configs)) if rows else "None."


def _value(config: Config, path: str) -> object:
    """The value of a setting; of one attention site, where a run has one attention for all, that one."""
    value: object = config
    for name in path.split("."):
        value = getattr(value, name, value)
    return value
