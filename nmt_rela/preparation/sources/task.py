"""Translation tasks: the corpora of a task, where they are, and how they are read. ``task_parser`` reads task files.

A task holds text in two or more languages. A configuration chooses the direction.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from nmt_rela.metrics.translation import default_tokenizer
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.shipped import find_shipped, is_name, shipped_directories

#: Formats of archives: the container and the compression around it.
ARCHIVE_FORMATS: dict[str, tuple[str, str]] = {
    "tar": ("tar", ""),
    "tgz": ("tar", "gz"),
    "tar.gz": ("tar", "gz"),
    "tar.xz": ("tar", "xz"),
    "tar.bz2": ("tar", "bz2"),
    "zip": ("zip", ""),
    "gz": ("file", "gz"),
    "xz": ("file", "xz"),
    "bz2": ("file", "bz2"),
    "plain": ("file", ""),
}

#: Formats of parallel text, and whether each language has its own file.
#: text: line by line · sgm: NIST segments · tsv, pipes: fields separated by tabs or ``|||``, see ``columns`` · tmx.
TEXT_FORMATS: dict[str, bool] = {"text": True, "sgm": True, "tsv": False, "pipes": False, "tmx": False}

#: Marks a field in ``columns`` that holds no text of the task.
SKIPPED_COLUMN = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file to download. Its checksums are hexadecimal; "" and 0 stand for unknown."""

    url: str
    sha256: str = field(default="", metadata={"pattern": "[0-9a-fA-F]{64}", "wanted": "64 hexadecimal digits"})
    md5: str = field(default="", metadata={"pattern": "[0-9a-fA-F]{32}", "wanted": "32 hexadecimal digits"})
    bytes: int = field(default=0, metadata={"low": 1})


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """One place that provides an archive: remote files to be concatenated in order, or a path on this machine."""

    format: str
    parts: tuple[RemoteFile, ...] = ()
    path: Path | None = None

    @property
    def files(self) -> tuple[RemoteFile | Path, ...]:
        """The files to be concatenated."""
        return (self.path,) if self.path else self.parts

    def __str__(self) -> str:
        return str(self.path) if self.path else self.parts[0].url


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """An archive, or a single file, with its locations in order of preference."""

    name: str
    locations: tuple[Location, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLocation:
    """Where the text of one language is: a member (path or glob) of an archive, or "" where the archive is the file."""

    archive: Archive
    member: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelSource:
    """One parallel text. In a format with one file for all languages, all have the same location."""

    name: str
    format: str
    sides: Mapping[str, TextLocation]
    #: Language of each field, for formats with fields.
    columns: tuple[str, ...] = ()
    #: Known number of lines (0: unknown); any other number is an error.
    lines: int = 0
    #: Pharaoh file of word links, one line per pair, and the languages of the two numbers of a link.
    alignments: Path | None = None
    alignment_order: tuple[str, ...] = ()
    #: A word put before every source sentence, such as ``<2de>``; "" for none.
    tag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A translation task, in any direction between its languages."""

    name: str
    path: Path
    title: str
    licence: str
    languages: tuple[str, ...]
    bleu_tokenizers: Mapping[str, str]
    train: tuple[ParallelSource, ...]
    dev: tuple[ParallelSource, ...]
    tests: tuple[ParallelSource, ...]

    @property
    def tags(self) -> list[str]:
        """The tags of all sources, each once."""
        return sorted({found.tag for found in (*self.train, *self.dev, *self.tests) if found.tag})

    def bleu_tokenizer(self, language: str) -> str:
        """sacreBLEU's tokenizer for translations into this language."""
        return self.bleu_tokenizers.get(language) or default_tokenizer(language)

    def between(self, languages: tuple[str, str]) -> Task:
        """The task with nothing but the parallel sources and the gold alignments that have both languages."""

        both = set(languages)

        def usable(items: tuple[ParallelSource, ...]) -> tuple[ParallelSource, ...]:
            found = [item for item in items if both <= set(item.sides)]
            return tuple(
                item if both == set(item.alignment_order) else replace(item, alignments=None) for item in found
            )

        return replace(self, train=usable(self.train), dev=usable(self.dev), tests=usable(self.tests))


def archives_of(parallel_sources: Iterable[ParallelSource], languages: Iterable[str]) -> list[Archive]:
    """The archives that hold the text of these languages, each once."""
    sides = (parallel_source.sides[language] for parallel_source, language in product(parallel_sources, languages))
    return list({side.archive.name: side.archive for side in sides}.values())


def find_task(name_or_path: str) -> Path:
    """The file of a task, which is a path or the name of a shipped task. Raises ConfigError where there is none."""
    if not is_name(name_or_path):
        path = Path(os.path.expanduser(name_or_path))
        if not path.is_file():
            raise ConfigError(f"data.task: {path}: no such task file")
        return path.absolute()  # paths of local text are relative to it
    try:
        return find_shipped("task", name_or_path, shipped_directories("data/tasks", "tasks"))
    except ConfigError as error:
        raise ConfigError(f"data.task: {error}") from None


def archive_format_of(file_name: str) -> str:
    """The archive format by the suffix of a file name; ``plain`` for other suffixes."""
    return max((name for name in ARCHIVE_FORMATS if file_name.endswith(f".{name}")), key=len, default="plain")
