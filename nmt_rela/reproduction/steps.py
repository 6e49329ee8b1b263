"""The steps of an experiment, in order. Each is a command that can be repeated by hand."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.checkpoint import list_checkpoints
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.preparation.pipeline import load_prepared
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.reproduction.experiment import Experiment, Run
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write, read_json, sha256_of
from nmt_rela.utils.shipped import CHECKOUT

#: A finished step: ``name``, ``command``, ``fingerprint``, ``seconds`` (of the attempt that finished) and ``finished``
#: (date and time).
Record = dict[str, Any]

#: Checkpoints per average, as in the paper.
AVERAGED = 5
#: Scripts that measure speed. An installed wheel does not contain them.
BENCHMARKS = CHECKOUT / "scripts" / "benchmarks"

#: Effort by scale: updates and rounds of the training benchmark, sentences and rounds of the decoding benchmark, test
#: sentences whose attention is analysed (0: all) and those on the page.
_BUDGET = {"updates": 5, "rounds": 5, "sentences": 1000, "decoding_rounds": 3, "analysed": 0, "page": 50}
_SMOKE_BUDGET = {"updates": 1, "rounds": 2, "sentences": 20, "decoding_rounds": 1, "analysed": 20, "page": 5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command, what it reads and what it writes."""

    name: str
    #: Known, like ``inputs``, when the steps before are done. A program's name, or the path of a script, comes first.
    command: Callable[[], list[str]]
    #: Files and values, besides the command, that determine the result.
    inputs: Callable[[], list[Path | str]]
    outputs: tuple[Path, ...]
    #: The run that this step trains, if it does.
    run: Run | None = None

    def fingerprint(self) -> str:
        """Hash of the command and of all that it reads. Raises DataError while that is unknown."""
        digest = hashlib.sha256("\0".join(self.command()).encode("utf-8"))
        for item in self.inputs():
            value = item if isinstance(item, str) else sha256_of(item) if item.is_file() else "missing"
            digest.update(f"\0{value}".encode())
        return digest.hexdigest()

    def is_up_to_date(self, records: Mapping[str, Record]) -> bool:
        """Whether the step is recorded, its fingerprint is the recorded one, and its outputs exist."""
        try:
            recorded = self.name in records and all(path.exists() for path in self.outputs)
            return recorded and records[self.name]["fingerprint"] == self.fingerprint()
        except DataError:
            return False


def steps_of(experiment: Experiment) -> Iterator[Step]:
    """All steps before the report."""
    first = experiment.runs[0]
    if first.arguments or not is_prepared(first):
        yield Step(
            name="prepare",
            command=lambda: ["nmt-prepare", "--config", str(experiment.config_file)],
            inputs=lambda: [_data_version(first)],
            outputs=(),
        )
    for run in experiment.runs:
        if run.arguments:
            yield _training(experiment, run)
            yield _averaging(run)
        yield _evaluation(experiment, run)
    if "analysis" not in experiment.skip:
        for seed in experiment.seeds:
            yield _analysis(experiment, seed)
    if "speed" not in experiment.skip and BENCHMARKS.is_dir():
        yield _training_speed(experiment)
        yield _decoding_speed(experiment)


def read_records(directory: Path) -> dict[str, Record]:
    """The intact records in a directory by the name of their step, oldest first."""
    # A damaged record is left out: its step runs again.
    records = [record for path in directory.glob("*.json") if (record := read_json(path)) is not None]
    return {record["name"]: record for record in sorted(records, key=lambda record: str(record["finished"]))}


def write_record(directory: Path, record: Record) -> None:
    """Record a step as finished."""
    file = directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', record['name'])}.json"
    with atomic_write(file) as stream:
        stream.write((json.dumps(record, indent=1) + "\n").encode("utf-8"))


def prepared_data(run: Run) -> PreparedData:
    """The data of a run. Raises DataError while it is not prepared."""
    return load_prepared(run.config.data)


def is_prepared(run: Run) -> bool:
    """Whether the data of a run is prepared."""
    try:
        prepared_data(run)
    except DataError:
        return False
    return True


def test_names(experiment: Experiment) -> list[str]:
    """The names of the task's test sets."""
    data = experiment.runs[0].config.data
    return [test.name for test in load_task(data.task).between(data.languages).tests]


def evaluation_directory(experiment: Experiment, run: Run) -> Path:
    """Where nmt-evaluate writes translations and scores; nothing is written into a run that existed."""
    return run.path / "evaluation" / "average" if run.arguments else experiment.output / "evaluation" / run.name


def analysis_directory(experiment: Experiment, seed: int) -> Path:
    """Where nmt-analyze writes its files."""
    return experiment.output / f"analysis.seed{seed}"


def speed_file(experiment: Experiment, what: str) -> Path:
    """Where the benchmark of ``training`` or ``decoding`` writes its results."""
    return experiment.output / "speed" / f"{what}.json"


def _budget(experiment: Experiment) -> dict[str, int]:
    return _SMOKE_BUDGET if experiment.scale == "smoke" else _BUDGET


def _data_version(run: Run) -> str:
    """Names of the stage directories, which contain the fingerprints of the data."""
    data = prepared_data(run)
    return f"{data.train.parent.name} {data.dev.source.parent.name}"


def _last_checkpoints(run: Run) -> list[Path]:
    return list_checkpoints(RunDirectory(run.path).checkpoints)[-AVERAGED:]


def _training(experiment: Experiment, run: Run) -> Step:
    return Step(
        name=f"train {run.name}",
        command=lambda: ["nmt-train", "--config", str(experiment.config_file), *run.arguments],
        inputs=lambda: [prepared_data(run).train.parent.name, config_to_yaml(run.config)],
        outputs=(RunDirectory(run.path).config_file, run.path / "last"),
        run=run,
    )


def _averaging(run: Run) -> Step:
    return Step(
        name=f"average {run.name}",
        command=lambda: [
            "nmt-average", "--model", str(run.path), "--last", str(len(_last_checkpoints(run)) or AVERAGED)
        ],
        inputs=lambda: [path / "manifest.json" for path in _last_checkpoints(run)],
        outputs=(run.path / "average" / "manifest.json",),
    )  # fmt: skip


def _evaluation(experiment: Experiment, run: Run) -> Step:
    output = evaluation_directory(experiment, run)
    # Runs that existed may choose other metrics; all are scored alike.
    metrics = dict.fromkeys(name for other in experiment.runs for name in other.config.evaluation.metrics)
    alike = ["--output", str(output), "--metrics", ",".join(metrics)]
    more = ["--checkpoint", "average"] if run.arguments else alike
    return Step(
        name=f"translate {run.name}",
        command=lambda: ["nmt-evaluate", "--model", str(run.path), *more],
        inputs=lambda: [run.checkpoint / "manifest.json", run.path / "config.yaml", _data_version(run)],
        outputs=(output / "scores.json",),
    )


def _analysis(experiment: Experiment, seed: int) -> Step:
    budget, runs, gold = _budget(experiment), experiment.of_seed(seed), experiment.gold or ()
    output = analysis_directory(experiment, seed)
    words = ["nmt-analyze", "--output", str(output), "--plots", "png"]
    words += ["--checkpoint", "average"] if runs[0].arguments else []
    words += ["--sentences", str(budget["analysed"]), "--page-sentences", str(budget["page"])]
    for run in runs:
        words += ["--model", str(run.path)]
    for option, path in zip(("--source", "--target", "--gold"), gold, strict=False):
        words += [option, str(path)]
    words += ["--gold-reversed"] * experiment.gold_reversed
    return Step(
        name=f"analyse seed{seed}",
        command=lambda: words,
        inputs=lambda: [*(run.checkpoint / "manifest.json" for run in runs), *gold],
        outputs=(output / "analysis.json", output / "plots"),
    )


def _training_speed(experiment: Experiment) -> Step:
    """Whole updates of all variants, interleaved, on the same batches."""
    budget, run = _budget(experiment), experiment.runs[0]
    output = speed_file(experiment, "training")
    words = [_benchmark("bench_train.py"), "--config", str(experiment.config_file), "--json", str(output)]
    words += ["--updates", str(budget["updates"]), "--rounds", str(budget["rounds"])]
    words += ["--attention", *(variant for variant in experiment.variants if "/" not in variant)]
    return Step(
        name="training speed",
        command=lambda: words,
        inputs=lambda: [prepared_data(run).train.parent.name, config_to_yaml(run.config)],
        outputs=(output,),
    )


def _decoding_speed(experiment: Experiment) -> Step:
    """The runs of the first seed translate the first test set, interleaved."""
    budget, runs = _budget(experiment), experiment.of_seed(experiment.seeds[0])
    decoding = runs[0].config.decoding
    output = speed_file(experiment, "decoding")

    def command() -> list[str]:
        words = [_benchmark("bench_decode.py"), "--lines", str(prepared_data(runs[0]).tests[0].source)]
        words += ["--sentences", str(budget["sentences"]), "--rounds", str(budget["decoding_rounds"]), "--single", "0"]
        for run in runs:
            words += ["--run", str(run.path)]
        words += ["--beams", str(decoding.beam_size)]
        if decoding.batch_tokens != "auto":
            words += ["--batch-tokens", str(decoding.batch_tokens)]
        return [*words, "--json", str(output)]

    return Step(
        name="decoding speed",
        command=command,
        inputs=lambda: [run.checkpoint / "manifest.json" for run in runs],
        outputs=(output,),
    )


def _benchmark(name: str) -> str:
    return os.path.relpath(BENCHMARKS / name)
