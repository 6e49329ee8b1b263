#!/usr/bin/env python3
"""Keep what a table needs of a finished run in docs/measurements/, and write the tables of docs/ from it.

    scripts/tools/training_records.py runs/a runs/b --to multi30k --configuration configs/multi30k-en-de.yaml
    scripts/tools/training_records.py

The first command adds or replaces a record per run and writes the tables, the second writes the tables alone. A record
has no weights, no text and no path of the machine. Tables over seeds are made of docs/measurements/NAME/results*.json,
each the results.json that `nmt-reproduce` has written for runs under a relative path, seed by seed or all at once;
tables of attention and of the use of the source are made of what attention_probe.py and source_probe.py have written.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import cli
from nmt_rela.config.loader import diff_configs, load_config
from nmt_rela.generation.evaluation import stored_scores
from nmt_rela.models.transformer import ATTENTION_SITES
from nmt_rela.reproduction.experiment import BASELINE
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import read_json

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (REPOSITORY / "docs/results.md", REPOSITORY / "docs/trials.md")
MEASUREMENTS = REPOSITORY / "docs/measurements"
MARKERS = re.compile(
    r"(<!-- (records|seeds|attention|source) of ([\w-]+): begin -->\n).*?(<!-- \2 of \3: end -->)", re.DOTALL
)

#: Updates of which a record has the mean training loss and the largest gradient norm.
WINDOW = 100
#: Settings that say where a run lies, when it ends or what it shows. The attention is a value of its own.
LEFT_OUT = re.compile(
    r"run_dir|data\.data_dir|model\.attention(\.\w+)?"
    r"|training\.(max_updates|log_every|validate_every|save_every|keep_\w+|max_hours|device)"
)
#: Settings that name files, of which a record has the last part.
FILES = ("data.task", "data.vocabulary", "training.initialize_from")
#: What a report says of the heads of a site.
HEAD_MEASURES = ("sparsity", "null_rate", "diversity")
#: Row masses by the number of visible keys, in what attention_probe.py measures.
BY_KEYS = "mass_by_visible_keys"
#: What a report needs to have.
REPORT = {"task", "runs", "significance", "curves", "attention"}
#: Of the scores of a checkpoint.
SCORES = ("bleu", "chrf", "length_ratio", "settings", "weights")

Record = dict[str, Any]


def record_of(run: Path, configuration: Path, *, change: str) -> Record:
    """What is kept of a run; ``change`` says how its code differed, if it did.

    Raises the UserError of a run or configuration that cannot be read, and of a run without a validation.
    """
    directory = RunDirectory(run)
    changes = diff_configs(load_config(configuration), directory.config())
    events = directory.read_metrics()
    validations = [event for event in events if event["event"] == "validation"]
    if not validations:
        raise UserError(f"{run}: has no validation yet")
    environment = read_json(directory.environment) or {}
    scores: dict[str, Record] = {}
    for checkpoint, entry in stored_scores(directory):
        if checkpoint.split("/")[0] in ("average", "best", "last"):  # followed by other settings, if there are any
            kept = {name: entry[name] for name in SCORES if name in entry}
            scores.setdefault(checkpoint, {})[entry["name"]] = kept
    found: Record = {
        "configuration": configuration.name,
        "attention": _text(directory.config().model.attention),
        "settings": {
            name: Path(value).name if name in FILES else _text(value)
            for name, value in ((each.path, each.new) for each in changes)
            if not LEFT_OUT.fullmatch(name)
        },
        "date": datetime.fromtimestamp(validations[-1]["time"], timezone.utc).date().isoformat(),
        "environment": {name: environment.get(name) for name in ("python", "torch", "device", "ranks", "threads")},
        "training": list(_windows([x for x in events if x["update"] <= validations[-1]["update"]])),
        "validations": [
            {name: value for name, value in event.items() if name not in ("event", "time", "elapsed")}
            for event in validations
        ],
        "scores": scores,
    }
    return _rounded({"change": change, **found} if change else found)


def table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row per run: what was changed, the losses, the last validation, and what averaged weights reach."""
    sets = sorted({name for record in records.values() for name in record["scores"].get("average", {})})
    settings = [set(record["settings"].items()) for record in records.values()]
    shared = set.intersection(*settings) if settings else set()
    header = ["run", "attention", "changed", "development loss (updates)", "training loss at the end"]
    header += ["development BLEU, chrF2", "cross-attention: zeros, null rows"]
    header += [f"{name}, average: BLEU, chrF2" for name in sets]
    yield from (_line(header), _line(["---"] * len(header)))
    for run, record in records.items():
        last, average = record["validations"][-1], record["scores"].get("average", {})
        changes = [f"`{name}: {value}`" for name, value in record["settings"].items() if (name, value) not in shared]
        yield _line([
            f"[{run}](measurements/{record['file']})",
            record["attention"],
            "; ".join([*changes, *([record["change"]] if "change" in record else [])]),
            ", ".join(f"{_numbers(event, 'loss', digits=3)} ({event['update']:,})" for event in record["validations"]),
            _numbers(next(reversed(record["training"]), {}), "loss", digits=3),
            _numbers(last, "bleu", "chrf", digits=1),
            ", ".join(f"{100 * last[name]:.0f} %" for name in ("sparsity_cross", "null_cross") if name in last),
            *(_numbers(average.get(each, {}), "bleu", "chrf", digits=2) for each in sets),
        ])  # fmt: skip
    if shared:
        yield from ("", f"All with {', '.join(f'`{name}: {value}`' for name, value in sorted(shared))}.")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _numbers(values: Mapping[str, Any], *names: str, digits: int) -> str:
    """Values of a record; nothing where one is missing or not finite."""
    found = [values.get(name) for name in names]
    return "" if None in found else ", ".join(f"{value:.{digits}f}" for value in found)


def _windows(events: Sequence[Record]) -> Iterator[Record]:
    """What the logged updates of every window had, by the last update of the window."""
    windows: dict[int, list[Record]] = {}
    for event in events:
        if event["event"] == "train" and None not in (event.get("loss"), event.get("gradient_norm")):
            windows.setdefault(-(-event["update"] // WINDOW) * WINDOW, []).append(event)
    for update, logged in windows.items():
        loss = sum(event["loss"] for event in logged) / len(logged)
        yield {"update": update, "loss": loss, "gradient_norm": max(event["gradient_norm"] for event in logged)}


def _text(value: Any) -> str:
    """The value of a setting as the command line takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)


def read_records(experiment: str) -> dict[str, Record]:
    """The records of an experiment by the names of their runs, with their files, in the order of these names.

    Raises the UserError of a file that is damaged.
    """
    records = {}
    for path in sorted((MEASUREMENTS / experiment).glob("*.json"), key=lambda path: path.stem):
        record = read_json(path)
        if not isinstance(record, dict):
            raise UserError(f"docs/measurements/{experiment}/{path.name}: is no record")
        records[path.stem] = {"file": f"{experiment}/{path.name}", **record}
    return records


def read_results(experiment: str) -> Record:
    """The results of an experiment whose seeds may lie in several reports, as if they lay in one.

    Raises the UserError of an experiment without a report, and of reports that do not belong together.
    """
    folder = f"docs/measurements/{experiment}"
    reports = {path.name: read_json(path) for path in sorted((MEASUREMENTS / experiment).glob("results*.json"))}
    if not reports:
        raise UserError(f"{folder}: has no results*.json")
    seeds: dict[int, str] = {}
    first = next(iter(reports))
    for name, report in reports.items():
        if not _is_report(report):
            raise UserError(f"{folder}/{name}: is no report, which has {', '.join(sorted(REPORT))}")
        if _text_of(report) != _text_of(reports[first]):
            raise UserError(f"{folder}/{name}: has other text than {first}")
        for seed in {run["seed"] for run in report["runs"]}:
            if seed in seeds:  # p is of the comparison with the first run of the seed in the same report
                raise UserError(f"{folder}/{name}: has runs of seed {seed}, as {seeds[seed]} has")
            seeds[seed] = name
    return _joined(list(reports.values()))


def _is_report(report: Any) -> bool:
    return (
        isinstance(report, dict)
        and report.keys() >= REPORT
        and isinstance(report["task"], dict)
        and "tests" in report["task"]
        and all(isinstance(run, dict) and run.keys() >= {"name", "seed", "scores"} for run in report["runs"])
    )


def _text_of(report: Mapping[str, Any]) -> Record:
    """What a report says of the text of its runs."""
    return {name: value for name, value in report["task"].items() if name not in ("name", "scale")}


def _joined(reports: Sequence[Mapping[str, Any]]) -> Record:
    """Reports of different seeds as one."""
    tests = reports[0]["task"]["tests"]
    return {
        "task": reports[0]["task"],
        "runs": [run for report in reports for run in report["runs"]],
        "significance": {test: _united(report["significance"].get(test, {}) for report in reports) for test in tests},
        **{what: _united(report[what] for report in reports) for what in ("curves", "attention")},
    }


def _united(parts: Iterable[Record]) -> Record:
    return {name: value for part in parts for name, value in part.items()}


def seed_tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Translation quality and what the heads do, per attention and settings: mean ± standard deviation over seeds.

    Only runs with scores count. The development loss is that of the last validation. Scores are those of the evaluated
    checkpoint, usually an average. Differences are to the softmax run of the same seed and settings, or to that of the
    only settings that softmax was trained with, which the row then says; p, one per seed, is that of the paired
    bootstrap, which compares with the first run of the seed only.
    """
    tests, intervals = results["task"]["tests"], results["significance"]
    evaluated = [run for run in results["runs"] if all(test in run["scores"] for test in tests)]
    first = {run["seed"]: run["name"] for run in reversed(evaluated)}
    groups: dict[tuple[str, str], list[Record]] = {}
    for run in evaluated:
        groups.setdefault((run["attention"], run["other_settings"]), []).append(run)
    attentions = [attention for attention, _ in groups]
    baselines = [found for (attention, _), found in groups.items() if attention == BASELINE]
    header = ["attention", "seeds", "updates", "development loss"]
    for test in tests:
        header += [f"{test}: BLEU", "chrF2", f"BLEU minus {BASELINE}'s", "p"]
    rows, heads = [], []
    for (attention, settings), runs in groups.items():
        label = attention if attentions.count(attention) == 1 else ", ".join(run["name"] for run in runs)
        losses = [(results["curves"].get(run["name"]) or [{}])[-1].get("loss") for run in runs]
        updates = dict.fromkeys(f"{run['updates']:,}" for run in runs)
        baseline = groups.get((BASELINE, settings)) or (baselines[0] if len(baselines) == 1 else [])
        label += "" if not baseline or (BASELINE, settings) in groups else " (settings of its own)"
        rows.append([label, str(len({run["seed"] for run in runs})), ", ".join(updates), _mean(losses, digits=3)])
        softmax = {run["seed"]: run for run in baseline if attention != BASELINE}
        pairs = [(run, softmax[run["seed"]]) for run in runs if run["seed"] in softmax]
        for test in tests:
            rows[-1] += [_mean([run["scores"][test].get(each) for run in runs], digits=2) for each in ("bleu", "chrf")]
            differences, ps = [], []
            for run, base in pairs:
                bleu, other = (each["scores"][test].get("bleu") for each in (run, base))
                differences.append(None if None in (bleu, other) else bleu - other)
                p = intervals.get(test, {}).get(run["name"], {}).get("bleu", {}).get("p")
                ps.append("–" if p is None or first[run["seed"]] != base["name"] else f"{p:.3f}")
            rows[-1] += [_mean(differences, digits=2, sign="+"), ", ".join(ps)]
        sites = [results["attention"][run["name"]]["sites"] for run in runs if run["name"] in results["attention"]]
        if sites:
            columns = [[[each[site][name] for each in sites] for name in HEAD_MEASURES] for site in ATTENTION_SITES]
            heads.append([label, *(", ".join(_mean(values, digits=2) for values in found) for found in columns)])
    yield from (_line(header), _line(["---"] * len(header)), *map(_line, rows))
    if heads:
        header = ["attention", *(f"{site}: zeros, null rows, diversity" for site in ATTENTION_SITES)]
        yield from ("", _line(header), _line(["---"] * len(header)), *map(_line, heads))


def attention_table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row per model and site: means over layers of what attention_probe.py measures."""
    found_lengths = {each for found in records.values() for layer in found["layers"] for each in layer[BY_KEYS]}
    lengths = sorted(found_lengths, key=lambda each: int(each.partition("-")[0]))
    names = ["mass_spread", "effective_keys", "weak_weights", "null_rows", "dead_keys"]
    names += ["head_scale", "hard_gates", "branch"]
    header = ["model", "site", *(f"mass, {each.replace('-', ' to ')} keys" for each in lengths)]
    header += [name.replace("_", " ") for name in names]
    yield from (_line(header), _line(["---"] * len(header)))
    for model, found in records.items():
        for site in ATTENTION_SITES:
            layers = [layer for layer in found["layers"] if layer["site"] == site]
            columns = [[layer[BY_KEYS].get(each) for layer in layers] for each in lengths]
            columns += [[layer[name] for layer in layers] for name in names]
            cells = ["" if None in each else f"{statistics.mean(each):.2f}" for each in columns]
            yield _line([f"[{model}](measurements/{found['file']})", site, *cells])


def source_table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row per model: what source_probe.py measures."""
    header = ["model", "nll", "nll, other source", "difference", "likely", "unlikely", "repeated words", "length"]
    yield from (_line(header), _line(["---"] * len(header)))
    for model, found in records.items():
        nlls = (found["nll"], found["nll_other_source"], found["nll_other_source"] - found["nll"])
        cells = [f"{value:.3f}" for value in nlls]
        cells += [f"{100 * found[name]:.1f} %" for name in ("likely", "unlikely")]
        cells += [f"{found['repeated_words']:.1f}", f"{found['length']:.3f}"]
        yield _line([f"[{model}](measurements/{found['file']})", *cells])
    if records:
        references = dict.fromkeys(f"{found['repeated_words_reference']:.1f}" for found in records.values())
        yield from ("", f"The references repeat {', '.join(references)} per thousand words.")


def _mean(values: Sequence[float | None], *, digits: int, sign: str = "") -> str:
    """Mean ± standard deviation, the latter of two values or more; nothing of none, – where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    if not known:
        return ""
    mean = f"{statistics.mean(known):{sign}.{digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def write_tables(page: str) -> str:
    """The page with its tables made again."""

    def made(found: re.Match[str]) -> str:
        if found[2] == "records":
            lines = table(read_records(found[3]))
        elif found[2] == "attention":
            lines = attention_table(read_records(found[3]))
        elif found[2] == "source":
            lines = source_table(read_records(found[3]))
        else:
            lines = seed_tables(read_results(found[3]))
        return "\n".join([found[1], *lines, "", found[4]])

    return MARKERS.sub(made, page)


def _rounded(value: Any) -> Any:
    """Values with numbers of six digits."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> int:
    """The script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="finished runs to keep records of")
    parser.add_argument("--to", metavar="NAME", help="the experiment: a directory in docs/measurements")
    parser.add_argument(
        "--configuration", type=Path, metavar="FILE", help="what they were trained with, settings aside"
    )
    parser.add_argument("--change", default="", metavar="TEXT", help="how their code differed from that of the package")
    options = parser.parse_args()
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    experiments = [found[3] for page in pages.values() for found in MARKERS.finditer(page) if found[2] == "records"]
    if options.runs and not (options.to in experiments and options.configuration):
        parser.error(f"runs need --configuration and, with a table in docs/, --to: {', '.join(experiments)}")
    for run in options.runs:
        path = MEASUREMENTS / options.to / f"{run.absolute().name}.json"
        path.parent.mkdir(exist_ok=True)
        record = record_of(run, options.configuration, change=options.change)
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for path, page in pages.items():
        path.write_text(write_tables(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("training_records", lambda _: main()))
