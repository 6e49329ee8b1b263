"""A comparison of any runs: scores of the sets that they share, curves, speed, and the settings that differ.

Nothing is written into the runs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nmt_rela.analysis import plots
from nmt_rela.analysis.learning_curve import panels_of_runs, quality_metrics
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import diff_configs
from nmt_rela.generation.evaluation import Entry, metrics_of, stored_scores
from nmt_rela.metrics.translation import LABELS, format_score, sacrebleu_metrics
from nmt_rela.reporting.pages import figure, number, setting, table, write_pages
from nmt_rela.reporting.run_summary import machine, summarize
from nmt_rela.reporting.significance import Interval, paired_bootstrap
from nmt_rela.utils.errors import CheckpointError, UserError
from nmt_rela.utils.progress import format_duration
from nmt_rela.utils.text import read_lines

LOG = logging.getLogger(__name__)

#: Records of the learning curve in its table.
_CURVE_ROWS = 8


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

    def lines(self, directory: str, *names: str) -> list[list[str]]:
        """Texts of an evaluation."""
        return [list(read_lines(self.directory.path / "evaluation" / directory / name)) for name in names]


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
    groups: dict[str, dict[Any, list[tuple[_Run, str, Entry]]]] = {}
    for run in runs:
        for directory, entry in run.entries:
            signatures = {name: _signature(entry, name) for name in metrics_of([entry])}
            references = run.lines(directory, *_references(run, directory, entry))
            key = (str(references or run.name), str(signatures))
            groups.setdefault(entry["name"], {}).setdefault(key, []).append((run, directory, entry))
    for test, by_key in groups.items():
        yield f"### {test}"
        if len(by_key) > 1:
            yield "The runs were scored with other references, metrics or tokenizers: a table each, not to be compared."
        for members in by_key.values():
            yield from _score_table(members)
        if missing := [run.name for run in runs if all(entry["name"] != test for _, entry in run.entries)]:
            yield f"Without scores of this set: {', '.join(missing)}."
    for run in runs:
        if not run.entries:
            yield f"{run.name}: not evaluated yet; `nmt-evaluate --model {run.directory.path}` does it."
    if groups:
        yield (
            "Intervals (95 %) and p are sacreBLEU's bootstrap over 1,000 resampled test sets. p is the probability "
            "that resampling alone gives a difference to the first run of the table as large as the observed one. "
            "Neither covers the variation between seeds. Length is words of the translation per word of the reference."
        )


def _score_table(members: Sequence[tuple[_Run, str, Entry]]) -> Iterator[str]:
    metrics = metrics_of([members[0][2]])
    intervals = _intervals(members)
    rows = []
    for run, directory, entry in members:
        row = [run.name, directory]
        for name in metrics:
            row.append(format_score(name, entry))
            if name in intervals.get(run.name, {}):
                interval = intervals[run.name][name]
                row += [f"{number(interval['low'], 2)}–{number(interval['high'], 2)}", number(interval["p"], 3)]
        speed = entry["sentences"] / entry["seconds"] if entry.get("seconds") else None
        rows.append([*row, number(entry.get("length_ratio"), 3), number(speed, 1)])
    header = ["run", "checkpoint"]
    for name in metrics:
        header += [LABELS[name]]
        header += ["interval", "p"] if name in next(iter(intervals.values()), {}) else []
    yield table([*header, "length", "sentences/s"], rows, text_columns=2)
    yield "Signatures: " + ", ".join(f"`{members[0][2][f'{name}_signature']}`" for name in metrics) + "."
    if not intervals:
        yield "No intervals: the references are not stored with the translations; `nmt-evaluate` again stores them."


def _intervals(members: Sequence[tuple[_Run, str, Entry]]) -> dict[str, dict[str, Interval]]:
    """Intervals by run and metric; none without references."""
    run, directory, entry = members[0]
    if not (names := _references(run, directory, entry)):
        return {}
    metrics = sacrebleu_metrics(metrics_of([entry]), entry["bleu_tokenizer"])
    systems = [(run.name, run.lines(directory, f"{entry['name']}.txt")[0]) for run, directory, entry in members]
    LOG.info("bootstrap of %s", entry["name"])
    return paired_bootstrap(systems, run.lines(directory, *names), metrics)


def _signature(entry: Entry, metric: str) -> str:
    """A signature without the version of sacreBLEU."""
    return re.sub(r"\|version:[^|]*", "", str(entry[f"{metric}_signature"]))


def _references(run: _Run, directory: str, entry: Entry) -> list[str]:
    """The files of the references, if all of them are there."""
    names = [str(name) for name in entry.get("references", [])]
    folder = run.directory.path / "evaluation" / directory
    return names if all((folder / name).is_file() for name in names) else []


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
    metrics = ["loss", *dict.fromkeys(name for of_run in records.values() for name in quality_metrics(of_run))]
    rows = []
    for name, of_run in records.items():
        if validations := [record for record in of_run if record["event"] == "validation"]:
            last = validations[-1]
            rows.append([name, f"{last['update']:,}", *(format_score(metric, last) for metric in metrics)])
    yield table(["run", "last validation at update", *(LABELS.get(metric, metric) for metric in metrics)], rows)
    vocabularies = {_fingerprint(run) for run in runs}
    if len(vocabularies) > 1:
        yield "The runs have other vocabularies: their losses are per other tokens, and cannot be compared."


def _fingerprint(run: _Run) -> str | None:
    try:
        return run.directory.load_tokenizers().fingerprint
    except CheckpointError:
        return None


def _settings(configs: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(configs.values()))
    changes = [{change.path: change for change in diff_configs(first, config)} for config in configs.values()]
    yield "## Settings that differ"
    paths = dict.fromkeys(path for of_run in changes for path in of_run if path != "run_dir")
    if not paths:
        yield "None."
        return
    rows = []
    for path in paths:
        old = next(of_run[path].old for of_run in changes if path in of_run)
        rows.append([f"`{path}`", *(setting(of_run[path].new if path in of_run else old) for of_run in changes)])
    yield table(["setting", *configs], rows, text_columns=1 + len(configs))
