"""What an experiment would take: its steps, time from this machine's own speed, disk, before anything is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nmt_rela.preparation.sources.task import Archive, Location
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.reproduction.experiment import Experiment
from nmt_rela.reproduction.speed_probe import SENTENCE, Speed, measure, parameters_of
from nmt_rela.reproduction.step_state import Journal
from nmt_rela.reproduction.steps import Step, effort_of, is_prepared
from nmt_rela.utils.progress import format_duration

#: Sentences of a set whose size the task file does not state.
_USUAL_SET = 3000
#: Bytes of text in a byte of archive, as gzip packs text of news and parliaments.
_EXPANSION = 3.3
#: Bytes of sub-word ids (two each) and offsets in a byte of text.
_IDS = 0.5
#: Bytes of text of both sides that one core reads, cleans and encodes in a second: 12 MB took 7.4 s of an AMD EPYC's.
_PREPARED_PER_SECOND = 1.6e6
#: Bytes fetched in a second, where nothing is known of the network.
_FETCHED_PER_SECOND = 10e6
#: Bytes of a parameter in a checkpoint: the weight and Adam's two moments.
_BYTES_PER_PARAMETER = 12
#: What looking at all the weights of a text takes, in times of training on it.
_ANALYSIS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What the task's archives come to."""

    archives: int
    #: Of those whose size is published.
    known_bytes: int
    unknown: int


def plan_lines(experiment: Experiment, steps: Sequence[Step], journal: Journal) -> Iterator[str]:
    """The plan as lines to print. Nothing is written."""
    size = archive_size(experiment)
    is_there = is_prepared(experiment.runs[0])
    gpus = max(1, torch.cuda.device_count())
    done = {step.name for step in steps if (r := journal.record(step.name)) is not None and step.stands(r.fingerprint)}
    if any(step.group == "train" and step.name not in done for step in steps):
        yield "measuring this machine, some seconds a kind of attention …"
    speeds = {kind: measure(experiment.runs[0].config, kind) for kind in experiment.kinds}
    first = next(iter(speeds.values()))
    config = experiment.runs[0].config
    yield f"{experiment.name}, scale {experiment.scale}, in {experiment.output}"
    yield (
        f"{gpus if torch.cuda.is_available() else 'no'} GPU{'s' * (gpus > 1)}; {first.device}, {first.precision}; "
        f"{first.parameters:,} parameters, {config.training.max_updates:,} updates of "
        f"{config.training.accumulate} x {config.training.batch_tokens:,} padded tokens"
    )
    for kind, speed in speeds.items():
        yield (
            f"  {kind:<10} {speed.training_tokens:>10,.0f} tokens/s in training, {speed.seconds_per_update:.2f} s an "
            f"update on one device; {speed.decoding_tokens:>8,.0f} tokens/s in translation"
        )
    if not torch.cuda.is_available() and experiment.scale == "paper":
        yield "  the paper's models are made for GPUs; --scale small and --scale smoke are for other machines"
    yield ""
    total = 0.0
    estimate = _estimator(experiment, speeds, size, gpus=gpus, data_is_there=is_there)
    for number, step in enumerate(steps, 1):
        seconds = 0.0 if step.name in done else max(0.0, estimate(step) - journal.seconds_so_far(step.name))
        total += seconds
        begun = journal.seconds_so_far(step.name) > 0
        state = "done" if step.name in done else f"about {_span(seconds)}{' (begun)' if begun else ''}"
        yield f"{number:>3}. {step.name:<34} {state}"
    yield ""
    yield f"time:  about {_span(total)} from here"
    yield from _disk_lines(experiment, size, data_is_there=is_there)


def archive_size(experiment: Experiment) -> Size:
    """How much is to be fetched, by the task file. Local text counts as nothing."""
    data = experiment.runs[0].config.data
    task = load_task(data.task)
    archives: dict[str, Archive] = {}
    for source in (*task.train, *task.dev, *task.tests):
        if {data.source_language, data.target_language} <= set(source.sides):
            for archive in source.archives(data.source_language, data.target_language):
                if not any(location.path for location in archive.locations):
                    archives[archive.name] = archive
    found = [max(map(_location_bytes, archive.locations)) for archive in archives.values()]
    return Size(archives=len(found), known_bytes=sum(found), unknown=found.count(0))


def _location_bytes(location: Location) -> int:
    if location.path is not None:
        return location.path.stat().st_size if location.path.is_file() else 0
    return sum(part.size for part in location.parts) if all(part.size for part in location.parts) else 0


def _estimator(
    experiment: Experiment, speeds: dict[str, Speed], size: Size, *, gpus: int, data_is_there: bool
) -> Callable[[Step], float]:
    """Seconds of a step."""
    config = experiment.runs[0].config
    training, effort = config.training, effort_of(experiment)
    task = load_task(config.data.task)
    dev = sum(source.lines or _USUAL_SET for source in task.dev)
    tests = sum(source.lines or _USUAL_SET for source in task.tests)
    text = size.known_bytes * _EXPANSION
    cores = torch.get_num_threads()
    some = next(iter(speeds.values()))
    checkpoint = some.parameters * _BYTES_PER_PARAMETER

    def prepare() -> float:
        if data_is_there:
            return 1.0
        share = 1.0 if not config.data.max_pairs_per_source else 0.1  # fetched as a whole, read in part
        return 30.0 + size.known_bytes / _FETCHED_PER_SECOND + share * text / _PREPARED_PER_SECOND / cores

    def train(kind: str) -> float:
        speed = speeds[kind]
        validated = dev if training.validation_decode_sentences < 0 else min(dev, training.validation_decode_sentences)
        validation = validated * SENTENCE / speed.decoding_tokens
        validations = training.max_updates / training.validate_every
        saves = training.max_updates / training.save_every
        updates = training.max_updates * speed.seconds_per_update / gpus
        return 10.0 + updates + validations * validation + saves * checkpoint / 500e6

    def translate(kind: str) -> float:
        return 5.0 + tests * SENTENCE / speeds[kind].decoding_tokens

    analysed = effort.analysed or (task.tests[0].lines or _USUAL_SET)
    decoded = (effort.decoding_rounds + 0.1) * effort.sentences * SENTENCE
    kinds = [speeds[kind] for kind in experiment.kinds]
    by_group: dict[str, Callable[[], float]] = {
        "prepare": prepare,
        "average": lambda: 5.0 + checkpoint / 200e6,
        "compare": lambda: 10.0 + 10.0 * len(experiment.kinds),
        "analyse": lambda: 30.0 + sum(_ANALYSIS * analysed * SENTENCE / speed.training_tokens for speed in kinds),
        "training speed": lambda: (
            10.0 + sum((effort.updates * effort.rounds + 1) * speed.seconds_per_update for speed in kinds)
        ),
        "decoding speed": lambda: 10.0 + sum(decoded / speed.decoding_tokens for speed in kinds),
    }
    kind_by_step = {f"{verb} {run.name}": run.kind for run in experiment.runs for verb in ("train", "translate")}
    by_kind: dict[str, Callable[[str], float]] = {"train": train, "translate": translate}

    def seconds(step: Step) -> float:
        if step.group in by_kind:
            return by_kind[step.group](kind_by_step[step.name])
        return by_group[step.group]()

    return seconds


def _disk_lines(experiment: Experiment, size: Size, *, data_is_there: bool) -> Iterator[str]:
    config = experiment.runs[0].config
    archives = 0 if data_is_there else size.known_bytes
    text = archives * _EXPANSION * (1 + _IDS) if not config.data.max_pairs_per_source else 0.0
    checkpoint = parameters_of(config) * _BYTES_PER_PARAMETER
    kept = config.training.keep_last_checkpoints + config.training.keep_best_checkpoints + 1  # one is being written
    runs = len(experiment.runs) * (kept * checkpoint + checkpoint / 3)
    free = shutil.disk_usage(_existing(experiment.output)).free
    yield (
        f"disk:  archives {_gigabytes(archives)}, prepared text about {_gigabytes(text)}, "
        f"{len(experiment.runs)} runs {_gigabytes(runs)} at most; "
        f"{_gigabytes(archives + text + runs)} in all, {_gigabytes(free)} are free"
    )
    if size.unknown and not data_is_there:
        yield f"       {size.unknown} of {size.archives} archives have no published size and are not counted"
    if archives + text + runs > free:
        yield "       THE DISK IS TOO SMALL"


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _span(seconds: float) -> str:
    """Long times in days."""
    return format_duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:,.0f} days"
