#!/usr/bin/env python3
"""Keep what a table needs of a finished run in docs/measurements/, and write the tables of docs/results.md from it.

    scripts/tools/training_records.py runs/a runs/b --to multi30k-leads --configuration configs/multi30k-en-de.yaml
    scripts/tools/training_records.py

The first command adds or replaces a record per run and writes the tables, the second writes the tables alone. A record
has no weights, no text and no path of the machine.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import cli
from nmt_rela.config.loader import diff_configs, load_config
from nmt_rela.generation.evaluation import read_entries

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/results.md"
MEASUREMENTS = REPOSITORY / "docs/measurements"
MARKERS = re.compile(r"(<!-- records of ([\w-]+): begin -->\n).*?(<!-- records of \2: end -->)", re.DOTALL)

#: Records keep the training loss of the multiples of this.
TRAINING_EVERY = 100
#: Settings without influence on what a run learns until its last update.
INDIFFERENT = re.compile(
    r"run_dir|model\.attention|training\.(max_updates|log_every|validate_every|save_every|keep_\w+|max_hours|device)|(analysis|evaluation|decoding)\.\w+"
)

Record = dict[str, Any]


def record_of(run: Path, configuration: Path, *, change: str) -> Record:
    """What is kept of a run; ``change`` says how its code differed, if it did. Raises the UserError of a bad run."""
    directory = RunDirectory(run)
    changes = diff_configs(load_config(configuration), directory.config())
    events = directory.read_metrics()
    environment = json.loads((run / "environment.json").read_bytes())
    found: Record = {
        "configuration": configuration.name,
        "attention": directory.config().model.attention,
        "settings": {x.path: x.new for x in changes if not INDIFFERENT.fullmatch(x.path)},
        "date": datetime.fromtimestamp(max(event["time"] for event in events), timezone.utc).date().isoformat(),
        "environment": {name: environment[name] for name in ("python", "torch", "device", "ranks", "threads")},
        "training": [
            {name: event[name] for name in ("update", "loss", "gradient_norm")}
            for event in events
            if event["event"] == "train" and event["update"] % TRAINING_EVERY == 0
        ],
        "validations": [
            {name: value for name, value in event.items() if name not in ("event", "time", "elapsed")}
            for event in events
            if event["event"] == "validation"
        ],
        "scores": {
            path.parent.name: {
                entry["name"]: {name: entry[name] for name in ("bleu", "chrf", "length_ratio", "settings", "weights")}
                for entry in read_entries(path)
            }
            for path in sorted(run.glob("evaluation/*/scores.json"))
        },
    }
    return _rounded({"change": change, **found} if change else found)


def table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row per run: what was changed, the loss as it fell, the last validation, and what averaged weights reach."""
    counts = Counter(event["update"] for record in records.values() for event in record["validations"])
    updates = sorted(update for update, count in counts.items() if count > 1)
    sets = sorted({name for record in records.values() for name in record["scores"].get("average", {})})
    shared = set.intersection(*(set(record["settings"].items()) for record in records.values()))
    header = ["run", "attention", "changed", *(f"loss, {update:,} updates" for update in updates)]
    header += ["last: loss, BLEU, chrF2", "zeros, null rows", *(f"{name}: BLEU, chrF2" for name in sets)]
    yield from (_line(header), _line(["---"] * len(header)))
    for run, record in records.items():
        losses = {event["update"]: f"{event['loss']:.3f}" for event in record["validations"]}
        last, average = record["validations"][-1], record["scores"].get("average", {})
        changes = [f"`{name}: {value}`" for name, value in record["settings"].items() if (name, value) not in shared]
        yield _line([
            f"[{run}](measurements/{record['file']})",
            record["attention"],
            "; ".join([*changes, *([record["change"]] if "change" in record else [])]),
            *(losses.get(update, "") for update in updates),
            f"{last['update']:,}: {last['loss']:.3f}, {last['bleu']:.1f}, {last['chrf']:.1f}",
            f"{100 * last['sparsity_cross']:.0f} %, {100 * last['null_cross']:.0f} %",
            *(f"{average[x]['bleu']:.2f}, {average[x]['chrf']:.2f}" if x in average else "" for x in sets),
        ])  # fmt: skip
    if shared:
        yield from ("", f"All with {', '.join(f'`{name}: {value}`' for name, value in sorted(shared))}.")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read_records(experiment: str) -> dict[str, Record]:
    """The records of an experiment by the names of their runs, with their files, in the order of these names."""
    files = sorted((MEASUREMENTS / experiment).glob("*.json"))
    return {path.stem: {"file": f"{experiment}/{path.name}", **json.loads(path.read_bytes())} for path in files}


def write_tables(page: str) -> str:
    """The page with its tables made again."""
    return MARKERS.sub(lambda found: f"{found[1]}\n{_text(found[2])}\n\n{found[3]}", page)


def _text(experiment: str) -> str:
    return "\n".join(table(read_records(experiment)))


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
    if options.runs and not (options.to and options.configuration):
        parser.error("runs need --to and --configuration")
    for run in options.runs:
        path = MEASUREMENTS / options.to / f"{run.name}.json"
        path.parent.mkdir(exist_ok=True)
        record = record_of(run, options.configuration, change=options.change)
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(write_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("training_records", lambda _: main()))
