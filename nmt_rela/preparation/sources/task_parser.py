"""Parser of task files, which are pure data.

    title: My corpus
    languages: [en, de]
    archives:                                # archives to download, by name; locations in order of preference
      news:
        - url: https://example.org/news.tgz
          sha256: …                          # or md5, and bytes, where they are known
        - url: https://mirror.example.org/news.zip
    train:
      - name: news
        archive: news
        members: {en: news/train.en, de: news/train.de}
      - name: mine                           # text on this machine, relative to the task file
        files: {en: text/mine.en.gz, de: text/mine.de.gz}
    dev: […]                                 # joined into one development set
    tests: […]

``docs/tasks.md`` describes every key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from nmt_rela.config import yaml_nodes
from nmt_rela.config.builder import build
from nmt_rela.metrics.translation import TOKENIZERS
from nmt_rela.preparation.sources.task import (
    ARCHIVE_FORMATS,
    SKIPPED_COLUMN,
    TEXT_FORMATS,
    Archive,
    Location,
    ParallelSource,
    RemoteFile,
    Task,
    TextLocation,
    archive_format_of,
    find_task,
)
from nmt_rela.utils.errors import ConfigError, did_you_mean

# What a task file may hold. The fields of these classes, and those of RemoteFile, are its keys. Names and languages
# become parts of file names.


@dataclass(frozen=True, kw_only=True, slots=True)
class _LocationEntry(RemoteFile):
    url: str = ""
    parts: tuple[RemoteFile, ...] = ()
    path: str = ""
    format: str = ""


#: A tag is one word, and stays one sub-word. The names of the special sub-words are taken.
_TAG = {
    "pattern": r"<(?!(?:pad|unk|s)>)[\w-]+>",
    "wanted": "letters, digits, _ and - between angle brackets, such as <2de>, but not <pad>, <unk>, <s>",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _AlignmentEntry:
    file: str
    order: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _SourceEntry:
    name: str = field(metadata={"pattern": r"\w[\w.+-]*", "wanted": "letters, digits, and . _ + -"})
    format: Literal["text", "sgm", "tsv", "pipes", "tmx"] = "text"
    archive: str | dict[str, str] = ""
    members: dict[str, str] = field(default_factory=dict)
    member: str = ""
    files: dict[str, str] = field(default_factory=dict)
    file: str = ""
    columns: tuple[str, ...] = ()
    lines: int = field(default=0, metadata={"low": 1})
    alignments: _AlignmentEntry | None = None
    tag: str = field(default="", metadata=_TAG)


@dataclass(frozen=True, kw_only=True, slots=True)
class _TaskEntry:
    languages: tuple[str, ...] = field(
        metadata={"pattern": r"\w[\w-]*", "wanted": "letters, digits, _ and -, such as pt-BR"}
    )
    train: tuple[_SourceEntry, ...]
    dev: tuple[_SourceEntry, ...] = ()
    tests: tuple[_SourceEntry, ...] = ()
    title: str = ""
    licence: str = "not stated"
    tag: str = field(default="", metadata=_TAG)
    bleu_tokenizers: dict[str, str] = field(default_factory=dict)
    archives: dict[str, tuple[_LocationEntry, ...]] = field(default_factory=dict)


def load_task(name_or_path: str) -> Task:
    """Read and check a task file, given by its path or by a name in ``data/tasks/``.

    Raises:
        ConfigError: no such task, or a key or value that is not accepted; the message names its line.
    """
    path = find_task(name_or_path)
    tree = yaml_nodes.read_file(path)
    if not isinstance(tree, yaml_nodes.Mapping):
        raise ConfigError(f"{tree.position}: expected a mapping, found {yaml_nodes.describe_node(tree)}")
    entry, positions = build(_TaskEntry, tree, f"{path}:1", page="docs/tasks.md")
    return _TaskReader(path, positions).task(entry)


class _TaskReader:
    """Checks the entries of a task file against each other and turns them into a ``Task``."""

    def __init__(self, path: Path, positions: Mapping[str, str]) -> None:
        self.path = path
        self.positions = positions
        self.languages: tuple[str, ...] = ()
        #: Of sources that have none of their own.
        self.tag = ""
        self.archives: dict[str, Archive] = {}

    def error(self, path: str, message: str) -> ConfigError:
        """An error at a key path. Keys that the file does not hold have the position of what encloses them."""
        position = path
        while position and position not in self.positions:
            position = re.sub(r"(\.|^)[^.\[\]]*$|\[\d+\]$", "", position)
        return ConfigError(f"{self.positions.get(position, f'{self.path}:1')}: {path}: {message}")

    def choice(self, path: str, text: str, accepted: Iterable[str], what: str) -> str:
        names = list(accepted)
        if text not in names:
            raise self.error(path, f"unknown {what} '{text}'; {did_you_mean(text, names)}")
        return text

    def task(self, entry: _TaskEntry) -> Task:
        for key in ("dev", "tests"):
            if not getattr(entry, key):
                hint = "docs/tutorial.md shows how to take one out of the training text"
                raise ConfigError(f"{self.path}:1: {key} is missing; {hint}")
        dev = [source.name for source in entry.dev]
        for index, test in enumerate(entry.tests):
            if test.name in ("dev", *dev, "+".join(dev)):
                raise self.error(
                    f"tests[{index}].name",
                    f"found '{test.name}', a name of the development set, so that scores would replace one another; "
                    "accepted: another name",
                )
        self.languages, self.tag = entry.languages, entry.tag
        self.check_different("languages", self.languages)
        self.check_languages("bleu_tokenizers", entry.bleu_tokenizers)
        for language, name in entry.bleu_tokenizers.items():
            self.choice(f"bleu_tokenizers.{language}", name, TOKENIZERS, "tokenizer")
        for name, locations in entry.archives.items():
            read = (self.location(f"archives.{name}[{index}]", item) for index, item in enumerate(locations))
            self.archives[name] = Archive(name=name, locations=tuple(read))
        return Task(
            name=self.path.stem,
            path=self.path,
            title=_one_line(entry.title) or self.path.stem,
            licence=_one_line(entry.licence),
            languages=self.languages,
            bleu_tokenizers=entry.bleu_tokenizers,
            train=self.sources("train", entry.train),
            dev=self.sources("dev", entry.dev),
            tests=self.sources("tests", entry.tests),
        )

    def check_different(self, path: str, languages: tuple[str, ...]) -> None:
        if len(languages) < 2 or len(set(languages)) < len(languages):
            found = ", ".join(languages) or "no language"
            raise self.error(path, f"found {found}; accepted: two or more different languages")

    def check_languages(self, path: str, by_language: Mapping[str, str]) -> None:
        for language in by_language:
            if language not in self.languages:
                raise self.error(f"{path}.{language}", f"unknown key; {did_you_mean(language, self.languages)}")

    def location(self, path: str, entry: _LocationEntry) -> Location:
        given = [key for key in ("url", "parts", "path") if getattr(entry, key)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise self.error(path, f"found {found} of url, parts, path; accepted: exactly one of them")
        if not entry.url and (stray := [key for key in ("bytes", "md5", "sha256") if getattr(entry, key)]):
            raise self.error(path, f"{stray[0]} belongs to a url; accepted beside {given[0]}: format")
        if entry.format:
            self.choice(f"{path}.format", entry.format, ARCHIVE_FORMATS, "format")
        if entry.path:
            local = self.local_path(entry.path)
            return Location(path=local, format=entry.format or archive_format_of(local.name))
        parts = entry.parts or (RemoteFile(url=entry.url, sha256=entry.sha256, md5=entry.md5, bytes=entry.bytes),)
        for index, part in enumerate(parts):
            if not _is_web_address(part.url):
                key = f"{path}.parts[{index}].url" if entry.parts else f"{path}.url"
                raise self.error(key, f"found '{part.url}'; accepted: an http:// or https:// address")
        file_name = re.sub(r"\.\d+$", "", PurePosixPath(urlsplit(parts[0].url).path).name)
        location = Location(parts=parts, format=entry.format or archive_format_of(file_name))
        if location.format == "zip" and len(parts) > 1:
            raise self.error(path, "a zip archive cannot be read in parts; accepted: tar and single-file formats")
        return location

    def sources(self, path: str, entries: tuple[_SourceEntry, ...]) -> tuple[ParallelSource, ...]:
        names = [entry.name for entry in entries]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise self.error(
                    f"{path}[{index}].name",
                    f"the name '{name}' is given twice in {path}; accepted: a name of its own for each source",
                )
        return tuple(self.source(f"{path}[{index}]", entry) for index, entry in enumerate(entries))

    def source(self, path: str, entry: _SourceEntry) -> ParallelSource:
        languages = self.languages
        if entry.format in ("tsv", "pipes"):
            if not entry.columns:
                raise self.error(path, "columns is missing; accepted: the language of each field, such as [en, de]")
            for index, column in enumerate(entry.columns):
                self.choice(f"{path}.columns[{index}]", column, (*self.languages, SKIPPED_COLUMN), "language")
            languages = tuple(column for column in entry.columns if column != SKIPPED_COLUMN)
            self.check_different(f"{path}.columns", languages)
        elif entry.columns:
            message = f"has no meaning for the format '{entry.format}'; accepted: with the formats tsv and pipes"
            raise self.error(f"{path}.columns", message)
        tag = entry.tag or self.tag
        order: tuple[str, ...] = ()
        if entry.alignments:
            order = entry.alignments.order
            for index, language in enumerate(order):
                self.choice(f"{path}.alignments.order[{index}]", language, self.languages, "language")
            if len(order) != 2 or order[0] == order[1]:
                found = f"found {', '.join(order)}; accepted: the two languages of a link i-j"
                raise self.error(f"{path}.alignments.order", found)
            if tag and not path.startswith("train"):
                found = f"found beside the tag {tag}, which is a word that links do not count"
                raise self.error(f"{path}.alignments", f"{found}; accepted: one of the two")
        return ParallelSource(
            name=entry.name,
            format=entry.format,
            sides=self.sides(path, entry, languages),
            columns=entry.columns,
            lines=entry.lines,
            alignments=self.local_path(entry.alignments.file) if entry.alignments else None,
            alignment_order=order,
            tag=tag,
        )

    def sides(self, path: str, entry: _SourceEntry, languages: tuple[str, ...]) -> dict[str, TextLocation]:
        """Where each language is: ``files``, or ``archive`` with ``members``; ``file``, or ``archive`` with ``member``.

        ``archive`` may be one for all languages, or one per language.
        """
        separate = TEXT_FORMATS[entry.format]
        reason = f"this format has {'a file for each language' if separate else 'one file for all languages'}"
        for one, many in (("file", "files"), ("member", "members")):
            wrong, accepted = (one, many) if separate else (many, one)
            if getattr(entry, wrong):
                raise self.error(f"{path}.{wrong}", f"{reason}; accepted: {accepted}")
        local, inner = ("files", "members") if separate else ("file", "member")
        by_language = entry.archive if isinstance(entry.archive, dict) else {}
        if by_language and not separate:
            raise self.error(f"{path}.archive", f"{reason}; accepted: the name of one archive")
        if getattr(entry, local):
            for key in ("archive", inner):
                if getattr(entry, key):
                    raise self.error(f"{path}.{key}", f"{local} is given already; accepted: {local} or archive")
        elif not entry.archive:
            raise self.error(path, f"found neither {local} nor archive; accepted: {local}, or archive with {inner}")
        if entry.file:
            return dict.fromkeys(languages, self.local_text(f"{path}.file", entry.file))
        if not separate:
            text = self.archived_text(f"{path}.archive", str(entry.archive), f"{path}.member", entry.member)
            return dict.fromkeys(languages, text)
        for key, names in (("files", entry.files), ("members", entry.members), ("archive", by_language)):
            self.check_languages(f"{path}.{key}", names)
        if entry.files:
            sides = {
                language: self.local_text(f"{path}.files.{language}", file) for language, file in entry.files.items()
            }
        else:
            archives = by_language or dict.fromkeys(entry.members, str(entry.archive))
            for language in entry.members.keys() - archives.keys():
                raise self.error(f"{path}.members.{language}", f"has no archive; accepted: {', '.join(archives)}")
            sides = {}
            for language, name in archives.items():
                key = f"{path}.archive.{language}" if by_language else f"{path}.archive"
                member = entry.members.get(language, "")
                sides[language] = self.archived_text(key, name, f"{path}.members.{language}", member)
        self.check_different(path, tuple(sides))
        return sides

    def archived_text(self, path: str, name: str, member_path: str, member: str) -> TextLocation:
        """Text in an archive; ``member`` is "" where none is given."""
        archive = self.archives[self.choice(path, name, self.archives, "archive")]
        for location in archive.locations:
            is_single_file = ARCHIVE_FORMATS[location.format][0] == "file"
            if is_single_file and member:
                raise self.error(member_path, f"'{location}' is a single file; accepted: no member")
            if not is_single_file and not member:
                found = f"'{location}' is a {location.format} archive, and no member of it is named"
                raise self.error(path, f"{found}; accepted: the path or glob of a member")
        return TextLocation(archive=archive, member=member)

    def local_text(self, path: str, file: str) -> TextLocation:
        local = self.local_path(file)
        format_ = archive_format_of(local.name)
        if ARCHIVE_FORMATS[format_][0] != "file":
            raise self.error(
                path, f"found a {format_} archive; name it under archives (by its path) and its members here"
            )
        return TextLocation(archive=Archive(name=str(local), locations=(Location(path=local, format=format_),)))

    def local_path(self, text: str) -> Path:
        """A path of the task file, which starts from its directory."""
        return Path(os.path.normpath(self.path.parent / os.path.expanduser(text)))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # malformed brackets or port
        return False


def _one_line(text: str) -> str:
    """Text for logs and tables: without line ends and without what a terminal obeys."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
