"""From a task file to data that a model can be trained on.

    <directory>/archives/…                      what was fetched, and checksums.json
    <directory>/<task>-<source>-<target>/
        sets-<fingerprint>/                     development and test sets, as text
        text-<fingerprint>/                     cleaned training text, and the account of its cleaning
        subwords-<fingerprint>/                 SentencePiece models
        train-<fingerprint>/, dev-<fingerprint>/    pairs as sub-word ids
        prepared-<fingerprint>.json             which of these belong together

Every stage is skipped when it is there. Archives may be deleted once the text is made of them, but not
``checksums.json``, which says what it was made of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import primary_language
from nmt_rela.data.prepared_data import EvaluationSet, PreparedData
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.binarize import available_cores
from nmt_rela.preparation.cleaning_stats import CleaningStats, read_stats
from nmt_rela.preparation.sources.archive_cache import ArchiveCache
from nmt_rela.preparation.sources.archives import CorruptArchiveError, LocalArchive
from nmt_rela.preparation.sources.mirror import MIRROR_VARIABLE
from nmt_rela.preparation.sources.task import Archive, ParallelSource, Task
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.preparation.stage_cache import exclusive, fingerprint, is_complete, stage
from nmt_rela.preparation.steps import clean_text, encode_dev, encode_train, learn_subwords, write_sets
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.progress import duration

LOG = logging.getLogger(__name__)

#: Raised when the code of a stage gives another result for the same inputs.
_VERSIONS = {"sets": 1, "text": 1, "subwords": 1, "train": 1, "dev": 1}
#: Likewise, for what one option does alone: other data stays as it is.
_ROMANIAN_VERSIONS = {"none": "none", "cedilla": "cedilla 2", "remove": "remove 2"}


def prepare(
    data: DataConfig, *, mirror: str | None = None, workers: int = 0, log: logging.Logger = LOG
) -> PreparedData:
    """Make the data that a configuration asks for; does nothing where it is made already.

    Args:
        data: what to prepare. A relative path of a task file starts from the working directory.
        mirror: a directory or URL that stands in for the internet; by default ``NMT_RELA_MIRROR`` of the environment.
        workers: threads that encode; 0 for one a core.

    Raises:
        ConfigError: the task file or a setting cannot be honoured.
        DataError: text cannot be had or cannot be used.
    """
    job = _Preparation(data, mirror=os.environ.get(MIRROR_VARIABLE, "") if mirror is None else mirror, log=log)
    prepared = job.finished()
    if prepared is None:
        with exclusive(job.directory / ".lock", work=f"prepares data in {job.directory}"):
            prepared = job.run(workers or available_cores())
    return prepared


def load_prepared(data: DataConfig) -> PreparedData:
    """The data of a configuration, prepared before, from wherever it was fetched.

    Raises:
        ConfigError: the task file cannot be honoured.
        DataError: the data is not prepared.
    """
    job = _Preparation(data, mirror="", log=LOG)
    prepared = job.load()
    if prepared is None:
        raise DataError(f"{job.directory}: the data of these settings is not prepared; run nmt-prepare")
    return prepared


class _Preparation:
    """One corpus in one direction with one set of options."""

    def __init__(self, data: DataConfig, *, mirror: str, log: logging.Logger) -> None:
        self.data = data
        self.log = log
        self.task = load_task(data.task)
        self.languages = _languages(self.task, data)
        self.train, self.dev, self.tests = (
            _usable(self.task, key, sources, self.languages)
            for key, sources in (("train", self.task.train), ("dev", self.task.dev), ("tests", self.task.tests))
        )
        root = Path(data.data_dir)
        self.directory = root / f"{self.task.name}-{data.source_language}-{data.target_language}"
        self.mirror = mirror
        self.store = ArchiveCache(root / "archives", mirror=mirror)
        self.files: dict[str, LocalArchive] = {}  # by name: what was verified in this run
        self.digests: dict[str, str] = {}  # by name: of all archives, also of those that are not needed any more

    # What is there already

    @property
    def summary(self) -> Path:
        options = {**dataclasses.asdict(self.data), "directory": "", "task": self.task.path.read_text("utf-8")}
        return self.directory / f"prepared-{fingerprint(options)}.json"

    def load(self) -> PreparedData | None:
        """What an earlier run with these options made, wherever its archives came from; None where there is nothing."""
        try:
            summary = json.loads(self.summary.read_bytes())
            stages = {name: self.directory / summary["stages"][name] for name in _VERSIONS}
            counts = summary["counts"]
        except (OSError, ValueError, KeyError):
            return None
        return self.prepared(stages, counts) if all(map(is_complete, stages.values())) else None

    def finished(self) -> PreparedData | None:
        """As ``load``, but None where it was made of other archives than there are now."""
        prepared = self.load()
        if prepared is None or self.recall_digests():
            return None
        current = (prepared.train.parent, prepared.dev_binary.parent, prepared.dev.source.parent)
        return prepared if current == tuple(map(self.stage_directory, ("train", "dev", "sets"))) else None

    def recall_digests(self) -> list[Archive]:
        """Look up the digests of archives that were fetched before; the archives that never were."""
        unknown = []
        for archive in self.archives(self.train + self.dev + self.tests):
            digest = self.store.known_digest(archive)
            if digest is None:
                unknown.append(archive)
            else:
                self.digests[archive.name] = digest
        return unknown

    # Making it

    def run(self, workers: int) -> PreparedData:
        """All stages that are missing, in their order."""
        self.log.info("preparing %s (licence: %s): %s to %s", self.task.title, self.task.licence, *self.languages)
        try:
            self.clear_up()
            self.fetch(self.recall_digests())
            stages = {
                name: self.complete(name, make)
                for name, make in (
                    ("sets", self.make_sets),
                    ("text", lambda out: clean_text(out, self.data, self.train, self.files)),
                    ("subwords", lambda out: learn_subwords(out, self.data, self.stage_directory("text"))),
                    ("train", lambda out: encode_train(out, self.data, *self.encoder_inputs("text"), workers=workers)),
                    ("dev", lambda out: encode_dev(out, self.data, *self.encoder_inputs("sets"))),
                )
            }
        except CorruptArchiveError as error:
            if error.archive and self.store.discard(error.archive):
                raise DataError(f"{error}; it is deleted, and fetched again by the next run") from None
            raise
        counts = _counts(stages)
        names = {name: directory.name for name, directory in stages.items()}
        with atomic_write(self.summary) as stream:
            tree = {"stages": names, "mirror": self.mirror, "counts": counts}
            stream.write(json.dumps(tree, indent=1).encode("utf-8") + b"\n")
        self.log.info("prepared in %s", self.directory)
        return self.prepared(stages, counts)

    def clear_up(self) -> None:
        """Delete what a killed run left half made; only one process is here at a time."""
        for path in self.directory.glob("*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def fetch(self, archives: list[Archive]) -> None:
        """Have archives on this machine, verified in this run."""
        for name, (files, digest) in self.store.fetch(
            archive for archive in archives if archive.name not in self.files
        ).items():
            self.files[name], self.digests[name] = files, digest

    def complete(self, name: str, make: Callable[[Path], None]) -> Path:
        """The directory of a stage, made if it is not there."""
        directory = self.stage_directory(name)
        if not is_complete(directory):
            # Archives that were fetched long ago are verified before they are read; it may be other ones now.
            self.fetch(self.archives({"sets": self.dev + self.tests, "text": self.train}.get(name, [])))
            directory = self.stage_directory(name)
        if is_complete(directory):
            self.log.info("%s: there already (%s)", name, directory.name)
            return directory
        start = time.monotonic()
        with stage(directory, self.inputs(name)) as partial:
            make(partial)
        self.log.info("%s: made in %s (%s)", name, duration(time.monotonic() - start), directory.name)
        return directory

    def stage_directory(self, name: str) -> Path:
        return self.directory / f"{name}-{fingerprint(self.inputs(name))}"

    def inputs(self, name: str) -> dict[str, Any]:
        """All that the result of a stage depends on, as plain values."""
        data = self.data
        needed: dict[str, Callable[[], dict[str, Any]]] = {
            "sets": lambda: {
                "languages": self.languages,
                "romanian": _ROMANIAN_VERSIONS[data.romanian_diacritics],
                "dev": [self.source_inputs(source) for source in self.dev],
                "tests": [self.source_inputs(source) for source in self.tests],
            },
            "text": lambda: {
                "languages": self.languages,
                "sources": [self.source_inputs(source) for source in self.train],
                "romanian": _ROMANIAN_VERSIONS[data.romanian_diacritics],
                "max_length_ratio": data.max_length_ratio,
                "drop_duplicates": data.drop_duplicates,
                "drop_copies": data.drop_untranslated,
                "max_pairs": data.max_pairs_per_source,
            },
            "subwords": lambda: {
                "text": fingerprint(self.inputs("text")),
                "subword": data.subword_model,
                "joint_vocabulary": data.joint_vocabulary,
                "vocabulary_size": data.vocabulary_size,
                "subword_sample": data.tokenizer_sample_size,
                "character_coverage": data.character_coverage,
            },
            "train": lambda: {
                "subwords": fingerprint(self.inputs("subwords")),
                "max_length": data.max_length,
                "overlong": data.on_overlength,
            },
            "dev": lambda: {
                "subwords": fingerprint(self.inputs("subwords")),
                "dev": [self.source_inputs(source) for source in self.dev],
                "romanian": _ROMANIAN_VERSIONS[data.romanian_diacritics],
            },
        }
        return {"version": _VERSIONS[name], **needed[name]()}

    def source_inputs(self, source: ParallelSource) -> dict[str, Any]:
        sides = [source.sides[language] for language in self.languages]
        links = self.alignments(source)
        return {
            "name": source.name,
            "format": source.format,
            "columns": source.columns,
            "lines": source.lines,
            "sides": [(self.digests[side.archive.name], side.member) for side in sides],
            "alignments": hashlib.sha256(links.read_bytes()).hexdigest() if links else "",
        }

    def alignments(self, source: ParallelSource) -> Path | None:
        """The gold alignments of a source, where they are between our languages."""
        if source.alignments is None or set(source.alignment_order) != set(self.languages):
            return None
        if not source.alignments.is_file():
            raise DataError(f"source '{source.name}': {source.alignments}: no such file")
        return source.alignments

    def archives(self, sources: Sequence[ParallelSource]) -> list[Archive]:
        found = {archive.name: archive for source in sources for archive in source.archives(*self.languages)}
        return list(found.values())

    def make_sets(self, directory: Path) -> None:
        links = {source.name: path for source in self.tests + self.dev if (path := self.alignments(source))}
        write_sets(directory, self.data, self.dev, self.tests, self.files, links)

    def encoder_inputs(self, text: str) -> tuple[Path, Path]:
        return self.stage_directory(text), self.stage_directory("subwords")

    def prepared(self, stages: Mapping[str, Path], counts: dict[str, Any]) -> PreparedData:
        def text_set(stem: str, name: str) -> EvaluationSet:
            links = stages["sets"] / f"{stem}.align"
            return EvaluationSet(
                name=name,
                source=stages["sets"] / f"{stem}.{self.data.source_language}",
                target=stages["sets"] / f"{stem}.{self.data.target_language}",
                bleu_tokenizer=self.task.bleu_tokenizer(self.data.target_language),
                gold_alignments=links if links.exists() else None,
            )

        return PreparedData(
            directory=self.directory,
            train=stages["train"] / "corpus",
            dev_binary=stages["dev"] / "corpus",
            dev=text_set("dev", "+".join(source.name for source in self.dev)),
            tests=tuple(text_set(f"test-{source.name}", source.name) for source in self.tests),
            tokenizer=stages["subwords"],
            counts=counts,
            title=self.task.title or self.task.name,
            licence=self.task.licence,
        )


def _languages(task: Task, data: DataConfig) -> tuple[str, str]:
    for key, language in (("source_language", data.source_language), ("target_language", data.target_language)):
        if language not in task.languages:
            hint = did_you_mean(language, task.languages)
            raise ConfigError(f"data.{key}: the task '{task.name}' has no language '{language}'; {hint}")
    if data.source_language == data.target_language:
        raise ConfigError(
            f"data.target_language: found '{data.target_language}', which is the source; accepted: another language"
        )
    if data.romanian_diacritics == "remove" and primary_language(data.target_language) == "ro":
        raise ConfigError(
            "data.romanian_diacritics: 'remove' would train translations without diacritics; "
            "accepted for the target 'ro': none, cedilla"
        )
    return data.source_language, data.target_language


def _usable(
    task: Task, key: str, sources: Sequence[ParallelSource], languages: tuple[str, str]
) -> list[ParallelSource]:
    usable = [source for source in sources if set(languages) <= set(source.sides)]
    if not usable:
        raise ConfigError(f"{task.path}: {key}: no source has both {' and '.join(languages)}")
    return usable


def _counts(stages: Mapping[str, Path]) -> dict[str, Any]:
    accounts = read_stats(stages["train"] / "cleaning_stats.json")
    lines = json.loads((stages["sets"] / "lines.json").read_bytes())
    vocabularies = TokenizerPair.load(stages["subwords"])
    return {
        "sources": {name: account.as_dict() for name, account in accounts.items()},
        "total": CleaningStats.sum(accounts.values()).as_dict(),
        "dev": lines["dev"],
        "tests": {name.removeprefix("test-"): count for name, count in lines.items() if name != "dev"},
        "vocabulary": {"source": vocabularies.source.size, "target": vocabularies.target.size},
    }
