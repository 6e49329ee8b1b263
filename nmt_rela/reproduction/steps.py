"""The steps of an experiment, each a command that a person can repeat, in the order in which they are done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_state
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.data.prepared_data import EvaluationSet, PreparedData
from nmt_rela.preparation.pipeline import load_prepared
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.reproduction.experiment import REPOSITORY, Experiment, Run, relative
from nmt_rela.utils.errors import DataError, UserError

#: Checkpoints that are averaged, as in the paper.
AVERAGED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What is spent on measuring speed and on looking at attention."""

    #: Updates of each kind in a round of the training benchmark, and rounds.
    updates: int = 5
    rounds: int = 5
    #: Sentences translated in a round of the decoding benchmark, and rounds.
    sentences: int = 1000
    decoding_rounds: int = 3
    #: Test sentences whose attention is analysed (0: all), and those on the page.
    analysed: int = 0
    page: int = 50


_EFFORTS = {"smoke": Effort(updates=1, rounds=2, sentences=20, decoding_rounds=1, analysed=20, page=5)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command, what it reads and what it leaves."""

    name: str
    #: Steps of one group take about as long as one another.
    group: str
    #: Known, as are the inputs, when the steps before are done. A program's name, or a script's path, comes first.
    command: Callable[[], list[str]]
    #: Files and values, beside the command, that decide what comes out.
    inputs: Callable[[], list[Path | str]]
    outputs: tuple[Path, ...]
    #: The run that is trained, if it is training.
    run: Run | None = None

    def fingerprint(self) -> str:
        """Of the command and of all it reads. Raises DataError while that is not known."""
        digest = hashlib.sha256("\0".join(self.command()).encode("utf-8"))
        for item in self.inputs():
            digest.update(b"\0")
            if isinstance(item, Path):
                digest.update(hashlib.sha256(item.read_bytes()).digest() if item.is_file() else b"missing")
            else:
                digest.update(item.encode("utf-8"))
        return digest.hexdigest()

    def stands(self, recorded: str) -> bool:
        """Whether what was recorded still holds: nothing it reads has changed, and what it left is there."""
        try:
            return all(path.exists() for path in self.outputs) and recorded == self.fingerprint()
        except DataError:
            return False


def steps_of(experiment: Experiment) -> Iterator[Step]:
    """All steps but the report."""
    first = experiment.runs[0]
    if first.arguments or not is_prepared(first):
        yield Step(
            name="prepare",
            group="prepare",
            command=lambda: ["nmt-prepare", "--config", str(experiment.config_file)],
            inputs=lambda: [prepared_data(first).train.parent.name, prepared_data(first).dev.source.parent.name],
            outputs=(),
        )
    for run in experiment.runs:
        if run.arguments:
            yield _training(experiment, run)
        if run.arguments or averaged_names(run)[-1:] != [path.name for path in averaged_checkpoints(run)[-1:]]:
            yield _averaging(run)
        yield _evaluation(run)
    for seed in experiment.seeds:
        runs = experiment.of_seed(seed)
        if "significance" not in experiment.skip:
            yield from (_significance(experiment, seed, runs, test) for test in test_names(experiment))
        if "analysis" not in experiment.skip:
            yield _analysis(experiment, seed, runs)
    if "speed" not in experiment.skip:
        yield _training_speed(experiment)
        yield _decoding_speed(experiment)


def effort_of(experiment: Experiment) -> Effort:
    """What a scale spends."""
    return _EFFORTS.get(experiment.scale, Effort())


def averaged_checkpoints(run: Run) -> list[Path]:
    """The checkpoints that are, or will be, averaged."""
    return list_checkpoints(RunDirectory(run.path).checkpoints)[-AVERAGED:]


def averaged_names(run: Run) -> list[str]:
    """The checkpoints that the run's average was made of; none where there is no average."""
    try:
        return list(load_state(run.path / "average").get("averaged", []))
    except UserError:
        return []


def updates_done(run: Run) -> int:
    """Where a run stands."""
    steps = list_checkpoints(RunDirectory(run.path).checkpoints)
    return int(steps[-1].name.removeprefix("step_")) if steps else 0


def is_trained(run: Run) -> bool:
    """Whether a run has come to the end that its configuration sets."""
    steps = list_checkpoints(RunDirectory(run.path).checkpoints)
    try:
        progress = load_state(steps[-1])["progress"] if steps else None
    except (UserError, KeyError):
        progress = None
    if progress is None:
        return False
    settings = run.config.training
    return bool(
        progress["update"] >= settings.max_updates
        or 0 < settings.max_epochs <= progress["epoch"]
        or 0 < settings.patience <= progress["without_best"]
    )


def prepared_data(run: Run) -> PreparedData:
    """The data a run is trained on. Raises DataError while it is not prepared."""
    return load_prepared(run.config.data)


def is_prepared(run: Run) -> bool:
    """Whether the data a run is trained on is there, wherever it came from."""
    try:
        prepared_data(run)
    except DataError:
        return False
    return True


def test_names(experiment: Experiment) -> list[str]:
    """The names of the task's test sets."""
    data = experiment.runs[0].config.data
    languages = {data.source_language, data.target_language}
    return [source.name for source in load_task(data.task).tests if languages <= set(source.sides)]


def test_set(run: Run, name: str) -> EvaluationSet:
    """A test set as it is prepared. Raises DataError while it is not."""
    return next(test for test in prepared_data(run).tests if test.name == name)


def evaluation_directory(run: Run) -> Path:
    """Where nmt-evaluate leaves translations and scores of the average."""
    return run.path / "evaluation" / "average"


def significance_file(experiment: Experiment, seed: int, test: str) -> Path:
    """Where the comparison of the runs of a seed is kept."""
    return experiment.output / "significance" / f"{test}.seed{seed}.json"


def analysis_directory(experiment: Experiment, seed: int) -> Path:
    """Where nmt-analyze leaves its files."""
    return experiment.output / f"analysis.seed{seed}"


def speed_file(experiment: Experiment, what: str) -> Path:
    """Where the benchmark of ``training`` or ``decoding`` leaves its figures."""
    return experiment.output / "speed" / f"{what}.json"


def _training(experiment: Experiment, run: Run) -> Step:
    directory = RunDirectory(run.path)
    words = ["nmt-train", "--config", str(experiment.config_file), *run.arguments]
    return Step(
        name=f"train {run.name}",
        group="train",
        command=lambda: words,
        inputs=lambda: [prepared_data(run).train.parent.name, config_to_yaml(run.config)],
        outputs=(directory.config_file, directory.path / "last"),
        run=run,
    )


def _averaging(run: Run) -> Step:
    def command() -> list[str]:
        count = len(averaged_checkpoints(run)) or AVERAGED
        return ["nmt-average", "--model", str(run.path), "--last", str(count)]

    return Step(
        name=f"average {run.name}",
        group="average",
        command=command,
        inputs=lambda: [path / "manifest.json" for path in averaged_checkpoints(run)],
        outputs=(run.path / "average" / "manifest.json",),
    )


def _evaluation(run: Run) -> Step:
    return Step(
        name=f"translate {run.name}",
        group="translate",
        command=lambda: ["nmt-evaluate", "--model", str(run.path), "--checkpoint", "average"],
        inputs=lambda: [
            run.path / "average" / "manifest.json",
            run.path / "config.yaml",
            prepared_data(run).dev.source.parent.name,
        ],
        outputs=(evaluation_directory(run) / "scores.json",),
    )


def _significance(experiment: Experiment, seed: int, runs: list[Run], test: str) -> Step:
    """Bootstrap intervals, and each run against the first one, on one test set."""
    systems = {run.name: evaluation_directory(run) / f"{test}.txt" for run in runs}
    output = significance_file(experiment, seed, test)

    def command() -> list[str]:
        prepared = test_set(runs[0], test)
        words = [_script("tools/significance.py"), "--reference", str(prepared.target), "--tokenizer"]
        words.append(prepared.bleu_tokenizer)
        for name, path in systems.items():
            words += ["--system", f"{name}={path}"]
        return [*words, "--json", str(output)]

    return Step(
        name=f"compare {test} seed{seed}",
        group="compare",
        command=command,
        inputs=lambda: list(systems.values()),
        outputs=(output,),
    )


def _analysis(experiment: Experiment, seed: int, runs: list[Run]) -> Step:
    effort = effort_of(experiment)
    output = analysis_directory(experiment, seed)
    words = ["nmt-analyze", "--checkpoint", "average", "--output", str(output), "--plots", "png"]
    words += ["--sentences", str(effort.analysed), "--page-sentences", str(effort.page)]
    for run in runs:
        words += ["--model", str(run.path)]
    if gold := experiment.gold:
        words += ["--source", str(gold.source), "--target", str(gold.target), "--gold", str(gold.links)]
        words += ["--gold-reversed"] * gold.is_reversed
    return Step(
        name=f"analyse seed{seed}",
        group="analyse",
        command=lambda: words,
        inputs=lambda: [
            *(run.path / "average" / "manifest.json" for run in runs),
            *((gold.source, gold.target, gold.links) if gold else ()),
        ],
        outputs=(output / "analysis.json", output / "plots"),
    )


def _training_speed(experiment: Experiment) -> Step:
    """Whole updates of all kinds in turns, on the same batches."""
    effort = effort_of(experiment)
    run = experiment.runs[0]
    kinds = [kind for kind in experiment.kinds if "/" not in kind]
    output = speed_file(experiment, "training")
    words = [_script("benchmarks/bench_train.py"), "--config", str(experiment.config_file)]
    words += ["--updates", str(effort.updates), "--rounds", str(effort.rounds), "--json", str(output), "--kinds"]
    return Step(
        name="training speed",
        group="training speed",
        command=lambda: [*words, *kinds],
        inputs=lambda: [prepared_data(run).train.parent.name, config_to_yaml(run.config)],
        outputs=(output,),
    )


def _decoding_speed(experiment: Experiment) -> Step:
    """The runs of the first seed translate the first test set in turns."""
    effort = effort_of(experiment)
    runs = experiment.of_seed(experiment.seeds[0])
    output = speed_file(experiment, "decoding")

    def command() -> list[str]:
        test = prepared_data(runs[0]).tests[0]
        words = [_script("benchmarks/bench_decode.py"), "--lines", str(test.source)]
        words += ["--sentences", str(effort.sentences)]
        for run in runs:
            words += ["--run", str(run.path)]
        words += ["--beams", str(runs[0].config.decoding.beam_size), "--batch-tokens"]
        words += [str(runs[0].config.decoding.batch_tokens), "--rounds", str(effort.decoding_rounds)]
        return [*words, "--single", "0", "--json", str(output)]

    return Step(
        name="decoding speed",
        group="decoding speed",
        command=command,
        inputs=lambda: [run.path / "average" / "manifest.json" for run in runs],
        outputs=(output,),
    )


def _script(name: str) -> str:
    return str(relative(REPOSITORY / "scripts" / name))
