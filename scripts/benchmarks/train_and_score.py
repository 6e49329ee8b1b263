"""Train a configuration to the end, average its last five checkpoints, and score the test sets: one JSON document."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from harness import environment, make_parser, write_document

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import average, cli, evaluate, train
from nmt_rela.config.loader import load_config
from nmt_rela.generation.device import resolve_device
from nmt_rela.generation.evaluation import stored_scores
from nmt_rela.metrics.translation import LABELS


def main() -> int:
    """Run the three commands; the first exit status that is not 0."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args()
    config = load_config(options.config, options.overrides)
    run, device = RunDirectory(config.run_dir), ["--device", "cpu"] if config.training.device == "cpu" else []
    seconds: dict[str, float] = {}
    commands: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
        "train": (train.main, ["--config", options.config, *options.overrides]),
        "average": (average.main, ["--model", str(run.path), "--last", "5"]),
        "evaluate": (evaluate.main, ["--model", str(run.path), *device]),
    }
    for name, (command, arguments) in commands.items():
        start = time.monotonic()
        if status := command(arguments):
            return status
        seconds[name] = round(time.monotonic() - start, 1)
    records: dict[str, Any] = {record["event"]: record for record in run.read_metrics()}  # the last of each
    document = {
        **environment(resolve_device("cpu" if device else "auto")),
        "attention": config.model.attention,
        "updates": config.training.max_updates,
        "seconds": seconds,
        "kernels": json.loads(run.environment.read_text(encoding="utf-8"))["kernels"],
        "training_loss": records["train"]["loss"],
        "validation": records["validation"],
        "tests": {
            entry["name"]: {name: entry[name] for name in LABELS if name in entry} for _, entry in stored_scores(run)
        },
    }
    write_document(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("train_and_score", lambda _: main()))
