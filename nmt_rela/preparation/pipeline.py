"""Preparation of data: from a task file to binary pairs that a model is trained on.

    <data_dir>/archives/…                       downloaded archives, and checksums.json
    <data_dir>/<task>-<source>-<target>/
        sets-<fingerprint>/                     development and test sets, as text
        text-<fingerprint>/                     cleaned training text, and the statistics of its cleaning
        subwords-<fingerprint>/                 SentencePiece models
        train-<fingerprint>/, dev-<fingerprint>/    pairs as sub-word ids
        prepared-<fingerprint>.json             summary: the stages of one configuration

It has two passes. The first resolves the sources: every archive is known by its digest. The second goes through a list
of stages, whose directories follow from the digests and the settings, and makes those that are missing. Archives may be
deleted once the text is made, but not ``checksums.json``, which holds their digests.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import primary_language
from nmt_rela.data.prepared_data import EvaluationSet, PreparedData
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation import steps
from nmt_rela.preparation.binarize import available_cores
from nmt_rela.preparation.cleaning_stats import CleaningStats, read_stats
from nmt_rela.preparation.sources.archive_cache import ArchiveCache
from nmt_rela.preparation.sources.archives import CorruptArchiveError, LocalArchive
from nmt_rela.preparation.sources.mirror import MIRROR_VARIABLE
from nmt_rela.preparation.sources.task import Archive, ParallelSource, Task
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.preparation.stage_cache import (
    Stage,
    ensure_stage,
    exclusive,
    fingerprint,
    is_complete,
    remove_partial_stages,
)
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean
from nmt_rela.utils.files import atomic_write, sha256_of

LOG = logging.getLogger(__name__)

#: Increased when the code of a stage gives another result for the same inputs.
_VERSIONS = {"sets": 1, "text": 1, "subwords": 1, "train": 1, "dev": 1}
#: The same for the modes of one option; data of other modes stays valid.
_ROMANIAN_VERSIONS = {"none": "none", "cedilla": "cedilla 2", "remove": "remove 2"}

_SUMMARY = ("stages", "versions", "mirror", "digests", "counts")


def prepare(data: DataConfig, *, mirror: str | None = None, workers: int = 0) -> PreparedData:
    """The data of a configuration. Stages that are missing are made; with none missing, nothing is written.

    Data that is complete is used again, also when its archives, their mirror or the network are gone. It is made anew
    when an archive is known to have changed.

    Args:
        data: what to prepare. The relative path of a task file starts from the working directory.
        mirror: a directory or URL that replaces the internet; by default ``NMT_RELA_MIRROR`` of the environment.
        workers: threads that encode; 0 for one per core.

    Raises:
        ConfigError: the task file or a setting is not accepted.
        DataError: text is not available or not usable.
    """
    corpus = _Corpus.of(data)
    mirror = os.environ.get(MIRROR_VARIABLE, "") if mirror is None else mirror
    cache = ArchiveCache(Path(data.data_dir) / "archives", mirror=mirror)
    summary = corpus.summary()
    if summary and not _has_changed(corpus, cache, summary):
        if summary["mirror"] != mirror:
            LOG.info("using data prepared before from %s", summary["mirror"] or "the published archives")
        return corpus.prepared(summary)
    with exclusive(corpus.directory / ".lock", work=f"prepares data in {corpus.directory}"):
        remove_partial_stages(corpus.directory)
        languages = f"{data.source_language} to {data.target_language}"
        LOG.info("preparing %s (licence: %s): %s", corpus.task.title, corpus.task.licence, languages)
        try:
            sources = resolve(corpus, cache)
            stages = list_stages(corpus, sources, workers=workers or available_cores())
            for stage in stages.values():
                ensure_stage(stage)
        except CorruptArchiveError as error:
            if error.archive and cache.discard(error.archive):
                raise DataError(f"{error}; it is deleted, and fetched again by the next run") from None
            raise
        summary = {
            "stages": {name: stage.directory.name for name, stage in stages.items()},
            "versions": _VERSIONS,
            "mirror": mirror,
            "digests": sources.digests,
            "counts": _counts(stages),
        }
        with atomic_write(corpus.summary_file) as stream:
            stream.write(json.dumps(summary, indent=1).encode("utf-8") + b"\n")
    LOG.info("prepared in %s", corpus.directory)
    return corpus.prepared(summary)


def load_prepared(data: DataConfig) -> PreparedData:
    """The data of a configuration that was prepared before.

    Raises:
        ConfigError: the task file is not accepted.
        DataError: the data is not prepared.
    """
    corpus = _Corpus.of(data)
    summary = corpus.summary()
    if not summary:
        raise DataError(f"{corpus.directory}: the data of these settings is not prepared; run nmt-prepare")
    return corpus.prepared(summary)


@dataclass(frozen=True, slots=True)
class _Corpus:
    """A task in one direction with one set of options. Each list holds the sources that have both languages."""

    data: DataConfig
    task: Task
    directory: Path
    train: Sequence[ParallelSource]
    dev: Sequence[ParallelSource]
    tests: Sequence[ParallelSource]

    @classmethod
    def of(cls, data: DataConfig) -> _Corpus:
        """The corpus of a configuration. Raises ConfigError where the task does not have it."""
        task = load_task(data.task)
        _check_languages(task, data)
        directory = Path(data.data_dir) / f"{task.name}-{data.source_language}-{data.target_language}"
        usable = (_with_both_languages(task, key, data) for key in ("train", "dev", "tests"))
        return cls(data, task, directory, *usable)

    @property
    def languages(self) -> tuple[str, str]:
        return self.data.source_language, self.data.target_language

    def archives(self, sources: Sequence[ParallelSource]) -> list[Archive]:
        """The archives of sources, each once."""
        found = {archive.name: archive for source in sources for archive in source.archives(*self.languages)}
        return list(found.values())

    def alignments(self, source: ParallelSource) -> Path | None:
        """The gold alignments of a source, where they are between our languages."""
        return source.alignments if set(source.alignment_order) == set(self.languages) else None

    @property
    def summary_file(self) -> Path:
        options = {**dataclasses.asdict(self.data), "data_dir": "", "task": self.task.path.read_text("utf-8")}
        return self.directory / f"prepared-{fingerprint(options)}.json"

    def summary(self) -> dict[str, Any]:
        """The summary of an earlier preparation with these options; empty where its stages are not complete."""
        try:
            summary = json.loads(self.summary_file.read_bytes())
            stages = [self.directory / summary["stages"][name] for name in _VERSIONS]
            return {key: summary[key] for key in _SUMMARY} if all(map(is_complete, stages)) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def prepared(self, summary: Mapping[str, Any]) -> PreparedData:
        """Where the data of a summary is."""
        stages = {name: self.directory / directory for name, directory in summary["stages"].items()}

        def evaluation_set(stem: str, name: str) -> EvaluationSet:
            alignments = stages["sets"] / f"{stem}.align"
            return EvaluationSet(
                name=name,
                source=stages["sets"] / f"{stem}.{self.data.source_language}",
                target=stages["sets"] / f"{stem}.{self.data.target_language}",
                bleu_tokenizer=self.task.bleu_tokenizer(self.data.target_language),
                gold_alignments=alignments if alignments.exists() else None,
            )

        return PreparedData(
            directory=self.directory,
            train=stages["train"] / "corpus",
            dev_binary=stages["dev"] / "corpus",
            dev=evaluation_set("dev", "+".join(source.name for source in self.dev)),
            tests=tuple(evaluation_set(f"test-{source.name}", source.name) for source in self.tests),
            tokenizer=stages["subwords"],
            counts=summary["counts"],
            title=self.task.title,
            licence=self.task.licence,
        )


def _check_languages(task: Task, data: DataConfig) -> None:
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


def _with_both_languages(task: Task, key: str, data: DataConfig) -> list[ParallelSource]:
    languages = {data.source_language, data.target_language}
    usable = [source for source in getattr(task, key) if languages <= set(source.sides)]
    if not usable:
        both = f"{data.source_language} and {data.target_language}"
        raise ConfigError(f"{task.path}: {key}: no source has both {both}")
    return usable


# First pass: the sources


@dataclass(frozen=True, slots=True)
class ResolvedSources:
    """The digests of all archives and alignment files by name, and the archives on this machine that will be read."""

    digests: dict[str, str] = field(default_factory=dict)
    archives: dict[str, LocalArchive] = field(default_factory=dict)


def resolve(corpus: _Corpus, cache: ArchiveCache) -> ResolvedSources:
    """Look up the digest of every archive, and fetch and verify the archives that missing stages read.

    Raises DataError where an archive or an alignment file is not available.
    """
    sources = ResolvedSources()
    for source in (*corpus.dev, *corpus.tests):
        if path := corpus.alignments(source):
            if not path.is_file():
                raise DataError(f"source '{source.name}': {path}: no such file")
            sources.digests[str(path)] = sha256_of(path)
    needed = []
    for archive in corpus.archives((*corpus.train, *corpus.dev, *corpus.tests)):
        digest = cache.known_digest(archive)
        if digest is None:
            needed.append(archive)
        else:
            sources.digests[archive.name] = digest
    while True:
        for name, (files, digest) in cache.fetch(needed).items():
            sources.archives[name], sources.digests[name] = files, digest
        # An archive that is fetched again may have another digest, and then other stages are missing.
        missing = [stage for stage in list_stages(corpus, sources).values() if not is_complete(stage.directory)]
        read = corpus.archives([source for stage in missing for source in stage.reads])
        needed = [archive for archive in read if archive.name not in sources.archives]
        if not needed:
            return sources


def _has_changed(corpus: _Corpus, cache: ArchiveCache, summary: Mapping[str, Any]) -> bool:
    """Whether a file or a stage's code is known to differ from what a summary was made with."""
    archives = corpus.archives((*corpus.train, *corpus.dev, *corpus.tests))
    now = {archive.name: cache.known_digest(archive) for archive in archives}
    for source in (*corpus.dev, *corpus.tests):
        if (path := corpus.alignments(source)) and path.is_file():
            now[str(path)] = sha256_of(path)
    changed = any(digest and digest != summary["digests"].get(name) for name, digest in now.items())
    return changed or summary["versions"] != _VERSIONS


# Second pass: the stages


def list_stages(corpus: _Corpus, sources: ResolvedSources, *, workers: int = 1) -> dict[str, Stage]:
    """The stages of a corpus by name, in the order in which they are made."""
    data, archives = corpus.data, sources.archives
    stages: dict[str, Stage] = {}

    def add(name: str, make: Callable[[Path], None], reads: Sequence[ParallelSource], inputs: dict[str, Any]) -> Path:
        inputs = {"version": _VERSIONS[name], **inputs}
        directory = corpus.directory / f"{name}-{fingerprint(inputs)}"
        stages[name] = Stage(name, directory, inputs, make, reads)
        return directory

    def settings(*names: str) -> dict[str, Any]:
        return {name: getattr(data, name) for name in names}

    train, dev, tests = (
        [_source_inputs(corpus, source, sources.digests) for source in group]
        for group in (corpus.train, corpus.dev, corpus.tests)
    )
    common = {"languages": corpus.languages, "romanian": _ROMANIAN_VERSIONS[data.romanian_diacritics]}
    alignments = {source.name: path for source in (*corpus.tests, *corpus.dev) if (path := corpus.alignments(source))}
    sets = add(
        "sets",
        lambda out: steps.write_sets(out, data, corpus.dev, corpus.tests, archives, alignments),
        [*corpus.dev, *corpus.tests],
        {**common, "dev": dev, "tests": tests},
    )
    cleaning = settings("max_length_ratio", "drop_duplicates", "drop_untranslated", "max_pairs_per_source")
    text = add(
        "text",
        lambda out: steps.clean_text(out, data, corpus.train, archives),
        corpus.train,
        {**common, "sources": train, **cleaning},
    )
    tokenizer = settings(
        "subword_model", "joint_vocabulary", "vocabulary_size", "tokenizer_sample_size", "character_coverage"
    )
    subwords = add("subwords", lambda out: steps.learn_subwords(out, data, text), (), {"text": text.name, **tokenizer})
    add(
        "train",
        lambda out: steps.encode_train(out, data, text, subwords, workers=workers),
        (),
        {"subwords": subwords.name, **settings("max_length", "on_overlength")},
    )
    add(
        "dev",
        lambda out: steps.encode_dev(out, data, sets, subwords),
        (),
        {**common, "subwords": subwords.name, "dev": dev},
    )
    return stages


def _source_inputs(corpus: _Corpus, source: ParallelSource, digests: Mapping[str, str]) -> dict[str, Any]:
    """All that the pairs of a source depend on. An archive that is not fetched yet has the digest ""."""
    sides = [source.sides[language] for language in corpus.languages]
    return {
        "name": source.name,
        "format": source.format,
        "columns": source.columns,
        "lines": source.lines,
        "sides": [(digests.get(side.archive.name, ""), side.member) for side in sides],
        "alignments": digests.get(str(corpus.alignments(source)), ""),
    }


def _counts(stages: Mapping[str, Stage]) -> dict[str, Any]:
    stats = read_stats(stages["train"].directory / "cleaning_stats.json")
    lines = json.loads((stages["sets"].directory / "lines.json").read_bytes())
    tokenizers = TokenizerPair.load(stages["subwords"].directory)
    return {
        "sources": {name: counts.as_dict() for name, counts in stats.items()},
        "total": CleaningStats.sum(stats.values()).as_dict(),
        "dev": lines["dev"],
        "tests": {name.removeprefix("test-"): count for name, count in lines.items() if name != "dev"},
        "vocabulary": {"source": tokenizers.source.size, "target": tokenizers.target.size},
    }
