"""Preparation of data: from a task file to binary pairs that a model is trained on.

    <data_dir>/archives/…                       downloaded archives, and checksums.json
    <data_dir>/<task>-<source>-<target>/
        sets-<fingerprint>/                     development and test sets, as text
        text-<fingerprint>/                     cleaned training text, and the statistics of its cleaning
        overlap-<fingerprint>/                  how many development and test pairs stand in the training text
        tokenizers-<fingerprint>/               SentencePiece models
        train-<fingerprint>/, dev-<fingerprint>/    pairs as sub-word ids
        prepared-<fingerprint>.json             summary: the stages of one configuration

It has two passes. The first resolves the archives: each is known by its digest. The second goes through a list of
stages, whose directories follow from the digests and the settings, and makes those that are missing. Archives may be
deleted once the text is made, but not ``checksums.json``, which holds their digests.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import Any

from nmt_rela.config.schema import IMPORTED, DataConfig
from nmt_rela.data.languages import MISTAKEN_CODES, is_known_language, primary_language
from nmt_rela.data.normalization import normalization_rule
from nmt_rela.data.prepared_data import EvaluationSet, PreparedData
from nmt_rela.metrics.translation import check_tokenizer, default_tokenizer
from nmt_rela.preparation.corpus_counts import count_corpus, log_counts
from nmt_rela.preparation.sources.archive_cache import ArchiveCache
from nmt_rela.preparation.sources.archives import CorruptArchiveError, LocalArchive
from nmt_rela.preparation.sources.mirror import MIRROR_VARIABLE
from nmt_rela.preparation.sources.task import Archive, ParallelSource, Task, archives_of
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.preparation.stage_cache import (
    Stage,
    damaged_file,
    discard_if_damaged,
    ensure_stage,
    exclusive,
    fingerprint,
    is_complete,
    remove_partial_stages,
)
from nmt_rela.preparation.stages import (
    copy_tokenizers,
    make_dev,
    make_overlap,
    make_sets,
    make_text,
    make_tokenizers,
    make_train,
    vocabulary_files,
)
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean
from nmt_rela.utils.files import atomic_write, check_writable, describe_missing, read_json, sha256_of
from nmt_rela.utils.processes import available_cores

LOG = logging.getLogger(__name__)

#: Increased when the code of a stage gives another result for the same inputs.
_VERSIONS = {"sets": 3, "text": 4, "overlap": 1, "tokenizers": 2, "train": 1, "dev": 2}
#: The same for the modes of one option; data of other modes stays valid.
_ROMANIAN_VERSIONS = {"none": "none", "cedilla": "cedilla 2", "remove": "remove 2"}
#: Settings of the section ``data`` that change nothing that is prepared.
_OF_TRAINING = ("subword_regularization", "weights", "temperature")


def prepare(
    data: DataConfig, *, mirror: str | None = None, workers: int = 0, needs_links: bool = False
) -> PreparedData:
    """The data of a configuration. Stages that are missing are made; with none missing, nothing is written.

    Data that is complete is used again, also when its archives, their mirror or the network are gone. It is made anew
    when an archive is known to have changed. What training reads is compared with its checksums, and a stage with a
    damaged file is made anew with a warning.

    Args:
        data: what to prepare. The relative path of a task file starts from the working directory.
        mirror: a directory or URL that replaces the internet; by default ``NMT_RELA_MIRROR`` of the environment.
        workers: threads that encode; 0 for one per core.
        needs_links: the training pairs must have word links, for ``training.guided_alignment``.

    Raises:
        ConfigError: the task file or a setting is not accepted.
        DataError: text is not available or not usable.
    """
    preparation = _Preparation.of(data)
    if needs_links and not any(source.alignments for source in preparation.task.train):
        raise ConfigError(
            f"training.guided_alignment.weight: no training source of {preparation.task.path} has word links; "
            "accepted: 0, or 'alignments' of a source in the task file"
        )
    mirror = os.environ.get(MIRROR_VARIABLE, "") if mirror is None else mirror
    cache = ArchiveCache(Path(data.data_dir) / "archives", mirror=mirror)
    summary = preparation.summary()
    # Data is made anew only when a file is known to differ from the one that it was made from.
    is_current = summary and summary["digests"] == summary["digests"] | _known_digests(preparation, cache)
    used = [preparation.directory / name for stage, name in summary.get("stages", {}).items() if stage != "text"]
    if is_current and not any(map(damaged_file, used)):
        if summary["mirror"] != mirror:
            LOG.info("using data prepared before from %s", summary["mirror"] or "the published archives")
        return preparation.prepared_data(summary)
    try:
        check_writable(preparation.directory, is_directory=True)
    except DataError as error:
        raise ConfigError(f"data.data_dir: {error}") from error
    with exclusive(preparation.directory / ".lock", work=f"prepares data in {preparation.directory}"):
        remove_partial_stages(preparation.directory)
        task, languages = preparation.task, " to ".join(data.languages)
        LOG.info("preparing %s (licence: %s): %s", task.title, task.licence, languages)
        for language in filterfalse(is_known_language, data.languages):
            meant = MISTAKEN_CODES.get(primary_language(language))
            hint = f"did you mean {meant}?" if meant else "such as en or eng"
            # A longer name is probably that of an invented language, and given on purpose.
            level = logging.WARNING if meant or len(primary_language(language)) <= 3 else logging.INFO
            LOG.log(level, "'%s' is no code of ISO 639 (%s); it is scored as a language with spaces", language, hint)
        try:
            archives, digests = _resolve_archives(preparation, cache)
            stages = _list_stages(preparation, archives, digests, workers=workers or available_cores())
            for stage in stages.values():
                ensure_stage(stage)
        except CorruptArchiveError as error:
            if error.archive and cache.discard(error.archive):
                raise DataError(f"{error}; it is deleted, and fetched again by the next run") from None
            raise
        directories = {name: stage.directory for name, stage in stages.items()}
        summary = {
            "stages": {name: directory.name for name, directory in directories.items()},
            "mirror": mirror,
            "digests": digests,
            "counts": count_corpus(directories, data),
        }
        record = {"fingerprint": fingerprint(summary), **summary}
        with atomic_write(preparation.summary_file) as stream:
            stream.write(json.dumps(record, indent=1).encode("utf-8") + b"\n")
    log_counts(summary["counts"])
    LOG.info("prepared in %s", preparation.directory)
    return preparation.prepared_data(summary)


def load_prepared(data: DataConfig) -> PreparedData:
    """The data of a configuration that was prepared before.

    Raises:
        ConfigError: the task file is not accepted.
        DataError: the data is not prepared, or the text of its development and test sets is damaged.
    """
    preparation = _Preparation.of(data)
    summary = preparation.summary()
    if not summary:
        raise DataError(
            f"data.data_dir: {preparation.directory}: the data of these settings is not prepared; run nmt-prepare, "
            "or name the directory that it was moved to"
        )
    if path := damaged_file(preparation.directory / summary["stages"]["sets"]):
        raise DataError(f"{path}: damaged: its SHA-256 is not that of stage.json; nmt-prepare makes it again")
    return preparation.prepared_data(summary)


def bleu_tokenizer_of(data: DataConfig) -> str:
    """BLEU's tokenizer for translations into the target language: the task's, also for text of one's own."""
    try:
        return load_task(data.task).bleu_tokenizer(data.target_language)
    except ConfigError as error:  # the run has outlived its task file
        tokenizer = default_tokenizer(data.target_language)
        if data.task != IMPORTED:
            LOG.warning("%s; BLEU has the default tokenizer of '%s', %s", error, data.target_language, tokenizer)
        return tokenizer


def names_of_sets(data: DataConfig) -> set[str]:
    """The names of the development set and of the test sets of a task."""
    try:
        return {"dev", *(test.name for test in load_task(data.task).tests)}
    except ConfigError:  # the run has outlived its task file
        return {"dev"}


@dataclass(frozen=True, slots=True)
class _Preparation:
    """What one configuration prepares, and where. The task has only what is between its two languages."""

    data: DataConfig
    task: Task

    @classmethod
    def of(cls, data: DataConfig) -> _Preparation:
        """Raises ConfigError where the task does not have the languages, or a setting does not fit them."""
        task = load_task(data.task)
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
        check_tokenizer(task.bleu_tokenizer(data.target_language))
        usable = task.between(data.languages)
        for key in ("train", "dev", "tests"):
            if not getattr(usable, key):
                found = ", ".join(sorted({"-".join(parallel_source.sides) for parallel_source in getattr(task, key)}))
                both = " and ".join(data.languages)
                raise ConfigError(f"{task.path}: {key}: found text of {found}; accepted: a source with both {both}")
        names = [source.name for source in usable.train]
        if unknown := [name for name in data.weights if name not in names]:
            raise ConfigError(
                f"data.weights.{unknown[0]}: no training source of {task.path}; {did_you_mean(unknown[0], names)}"
            )
        return cls(data, usable)

    @property
    def directory(self) -> Path:
        return Path(self.data.data_dir) / "-".join((self.task.name, *self.data.languages))

    @property
    def summary_file(self) -> Path:
        options = dataclasses.asdict(self.data) | {"data_dir": "", "task": self.task.path.read_text("utf-8")}
        for name in _OF_TRAINING:
            del options[name]
        return self.directory / f"prepared-{fingerprint({**options, 'versions': _VERSIONS})}.json"

    def summary(self) -> dict[str, Any]:
        """The summary of an earlier preparation with these options; empty where its stages are not complete."""
        summary = read_json(self.summary_file)
        if not isinstance(summary, dict) or summary.pop("fingerprint", "") != fingerprint(summary):
            return {}  # there is none, or it is damaged
        return summary if all(is_complete(self.directory / name) for name in summary["stages"].values()) else {}

    @property
    def archives(self) -> list[Archive]:
        """All archives."""
        return archives_of((*self.task.train, *self.task.dev, *self.task.tests), self.data.languages)

    @property
    def alignments(self) -> dict[Path, str]:
        """The files of word links, each with the name of its source."""
        sources = (*self.task.train, *self.task.dev, *self.task.tests)
        return {found.alignments: found.name for found in sources if found.alignments}

    def prepared_data(self, summary: Mapping[str, Any]) -> PreparedData:
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
            links=links if (links := stages["train"] / "links").exists() else None,
            dev_binary=stages["dev"] / "corpus",
            dev=evaluation_set("dev", "+".join(dev.name for dev in self.task.dev)),
            tests=tuple(evaluation_set(f"test-{test.name}", test.name) for test in self.task.tests),
            tokenizer=stages["tokenizers"],
            counts=summary["counts"],
            title=self.task.title,
            licence=self.task.licence,
        )


# First pass: the archives


def _known_digests(preparation: _Preparation, cache: ArchiveCache) -> dict[str, str]:
    """The digests of alignment and vocabulary files, by path, and of archives fetched before, by name."""
    vocabulary = vocabulary_files(Path(preparation.data.vocabulary)) if preparation.data.vocabulary else []
    known = {str(path): sha256_of(path) for path in (*preparation.alignments, *vocabulary) if path.is_file()}
    return known | {archive.name: digest for archive in preparation.archives if (digest := cache.known_digest(archive))}


def _resolve_archives(preparation: _Preparation, cache: ArchiveCache) -> tuple[dict[str, LocalArchive], dict[str, str]]:
    """The archives that missing and damaged stages read, verified; the digests of all archives and alignment files.

    Raises DataError where an archive or an alignment file is not available.
    """
    archives: dict[str, LocalArchive] = {}
    verified: set[Path] = set()
    vocabulary = preparation.data.vocabulary
    if vocabulary and not vocabulary_files(Path(vocabulary)):
        raise ConfigError(
            f"data.vocabulary: found '{vocabulary}', where no sub-word models are; accepted: a run directory, a "
            "directory with joint.model or with source.model and target.model, the file of a SentencePiece model"
        )
    digests = _known_digests(preparation, cache)
    for path, name in preparation.alignments.items():
        if str(path) not in digests:
            raise DataError(f"source '{name}': {path}: {describe_missing(path)}; paths start from the task file")
    needed = [archive for archive in preparation.archives if archive.name not in digests]
    while True:
        for archive in cache.fetch(needed):
            archives[archive.name], digests[archive.name] = archive, archive.digest
        # An archive that is fetched again may have another digest, and then other stages are missing.
        stages = _list_stages(preparation, archives, digests).values()
        for stage in stages:
            if stage.directory not in verified:
                discard_if_damaged(stage.directory)
                verified.add(stage.directory)
        missing = [stage for stage in stages if not is_complete(stage.directory)]
        read = {archive.name: archive for stage in missing for archive in stage.reads}
        needed = [wanted for name, wanted in read.items() if name not in archives]
        if not needed:
            return archives, digests


# Second pass: the stages


def _list_stages(
    preparation: _Preparation,
    archives: Mapping[str, LocalArchive],
    digests: Mapping[str, str],
    *,
    workers: int = 1,
) -> dict[str, Stage]:
    """The stages by name, in the order in which they are made."""
    data, task = preparation.data, preparation.task
    stages: dict[str, Stage] = {}

    def add(
        name: str, make: Callable[[Path], None], inputs: dict[str, Any], reads: Sequence[ParallelSource] = ()
    ) -> Path:
        inputs = {"version": _VERSIONS[name], **inputs}
        directory = preparation.directory / f"{name}-{fingerprint(inputs)}"
        stages[name] = Stage(name, directory, inputs, make, archives_of(reads, data.languages))
        return directory

    def settings(*names: str) -> dict[str, Any]:
        return {name: getattr(data, name) for name in names}

    def described(group: Sequence[ParallelSource]) -> list[dict[str, Any]]:
        """All that the pairs depend on. An archive that is not fetched yet has the digest ""."""
        return [
            {
                **{name: getattr(parallel_source, name) for name in ("name", "format", "columns", "lines", "tag")},
                "sides": [
                    (digests.get(side.archive.name, ""), side.member)
                    for side in (parallel_source.sides[language] for language in data.languages)
                ],
                "alignments": parallel_source.alignments
                and (digests.get(str(parallel_source.alignments), ""), parallel_source.alignment_order),
            }
            for parallel_source in group
        ]

    common = {"languages": data.languages, "romanian": _ROMANIAN_VERSIONS[data.romanian_diacritics]}
    common |= {"normalization": [normalization_rule(language, data=data) for language in data.languages]}
    sets = add(
        "sets",
        partial(make_sets, data=data, dev=task.dev, tests=task.tests, archives=archives),
        {**common, "dev": described(task.dev), "tests": described(task.tests)},
        [*task.dev, *task.tests],
    )
    cleaning = settings("max_length_ratio", "drop_duplicates", "drop_untranslated", "max_pairs_per_source")
    text = add(
        "text",
        partial(make_text, data=data, train=task.train, archives=archives),
        {**common, "sources": described(task.train), **cleaning},
        task.train,
    )
    add("overlap", partial(make_overlap, data=data, sets=sets, text=text), {"sets": sets.name, "text": text.name})
    tags = task.tags
    if data.vocabulary:
        path = Path(data.vocabulary)
        make = partial(copy_tokenizers, vocabulary=path, data=data, tags=tags)
        inputs: dict[str, Any] = {"models": [digests[str(file)] for file in vocabulary_files(path)]}
    else:
        make = partial(make_tokenizers, data=data, text=text, tags=tags)
        inputs = {"text": text.name, "tags": tags}
        inputs |= settings("subword_model", "vocabulary_size", "tokenizer_sample_size", "character_coverage")
    tokenizers = add("tokenizers", make, {**inputs, **settings("joint_vocabulary")})
    add(
        "train",
        partial(make_train, data=data, text=text, tokenizers=tokenizers, workers=workers),
        {"text": text.name, "tokenizers": tokenizers.name, **settings("max_length", "on_overlength")},
    )
    add(
        "dev",
        partial(make_dev, data=data, sets=sets, tokenizers=tokenizers),
        {**common, "tokenizers": tokenizers.name, "dev": described(task.dev)},
    )
    return stages
