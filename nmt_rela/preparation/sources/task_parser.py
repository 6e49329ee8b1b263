"""Task files: pure data, read strictly.

    title: My corpus
    languages: [en, de]
    archives:                                # what is fetched, by name; locations in order of preference
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
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from nmt_rela.config import yaml_nodes
from nmt_rela.config.yaml_nodes import List, Scalar, Tree, described
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

_TASK = ("title", "licence", "languages", "bleu_tokenizers", "archives", "train", "dev", "tests")
_SOURCE = ("name", "format", "archive", "members", "member", "files", "file", "columns", "lines", "alignments")
_LOCATION = ("url", "sha256", "md5", "bytes", "parts", "path", "format")
_PART = ("url", "sha256", "md5", "bytes")


def load_task(name_or_path: str, *, relative_to: Path | None = None) -> Task:
    """Read and check a task file.

    Args:
        name_or_path: a name in ``data/tasks/``, or the path of a task file.
        relative_to: the directory a relative path starts from; the working directory where it is not given.

    Raises:
        ConfigError: no such task, or a key or value in it that cannot be honoured; the message names its line.
    """
    path = find_task(name_or_path, relative_to=relative_to)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: invalid UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return _TaskReader(path).task(_Node(yaml_nodes.parse(text, str(path)), ""))


class _Node:
    """A tree of the file with its key path; its methods return plain values or fail with the place."""

    def __init__(self, tree: Tree, path: str) -> None:
        self.tree = tree
        self.path = path

    def error(self, message: str) -> ConfigError:
        return ConfigError(
            f"{self.tree.place}: {self.path}: {message}" if self.path else f"{self.tree.place}: {message}"
        )

    def unexpected(self, expected: str) -> ConfigError:
        return self.error(f"expected {expected}, found {described(self.tree)}")

    def mapping(self, accepted: Iterable[str] = ()) -> dict[str, _Node]:
        """The entries of a mapping; with ``accepted``, other keys are refused."""
        if not isinstance(self.tree, yaml_nodes.Mapping):
            raise self.unexpected("a mapping")
        nodes = {key: _Node(tree, f"{self.path}.{key}".lstrip(".")) for key, tree in self.tree.entries.items()}
        known = set(accepted)
        for key in nodes:
            if known and key not in known:
                shown = f"{self.path}.{key}".lstrip(".")
                raise ConfigError(f"{self.tree.places[key]}: {shown}: unknown key; {did_you_mean(key, known)}")
        return nodes

    def items(self) -> list[_Node]:
        if not isinstance(self.tree, List) or not self.tree.items:
            raise self.unexpected("a list with at least one entry")
        return [_Node(tree, f"{self.path}[{index}]") for index, tree in enumerate(self.tree.items)]

    def text(self) -> str:
        text = self.tree.as_text() if isinstance(self.tree, Scalar) else None
        if not text or not text.strip():
            raise self.unexpected("text")
        return text.strip()

    def choice(self, accepted: Iterable[str], what: str) -> str:
        text, names = self.text(), list(accepted)
        if text not in names:
            raise self.error(f"unknown {what} '{text}'; {did_you_mean(text, names)}")
        return text

    def count(self) -> int:
        number = self.tree.as_int() if isinstance(self.tree, Scalar) else None
        if number is None or number < 1:
            raise self.unexpected("a whole number above 0")
        return number

    def hexadecimal(self, digits: int) -> str:
        """A checksum. Unquoted ones may look like numbers to YAML, so the text is taken as it stands."""
        text = self.tree.text.lower() if isinstance(self.tree, Scalar) else ""
        if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", text):
            raise self.unexpected(f"{digits} hexadecimal digits")
        return text


class _TaskReader:
    """Turns the tree of one task file into a ``Task``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.languages: tuple[str, ...] = ()
        self.archives: dict[str, Archive] = {}

    def task(self, root: _Node) -> Task:
        top = root.mapping(_TASK)
        for key in ("languages", "train", "dev", "tests"):
            if key not in top and key in ("dev", "tests") and "train" in top:
                raise root.error(f"{key} is missing; docs/tasks.md shows how to take one out of the training text")
            _required(root, top, key)
        self.languages = tuple(item.text() for item in top["languages"].items())
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):
            raise top["languages"].error(
                f"found {', '.join(self.languages)}; accepted: two or more different languages"
            )
        for language, item in zip(self.languages, top["languages"].items(), strict=True):
            if not re.fullmatch(r"\w[\w-]*", language):  # it becomes part of file names
                raise item.error(f"found '{language}'; accepted: letters, digits, _ and -, such as pt-BR")
        if "archives" in top:
            self.archives = {
                name: Archive(name=name, locations=tuple(self.location(item) for item in node.items()))
                for name, node in top["archives"].mapping().items()
            }
        tokenizers = top["bleu_tokenizers"].mapping(self.languages) if "bleu_tokenizers" in top else {}
        return Task(
            name=self.path.stem,
            path=self.path,
            title=top["title"].text() if "title" in top else self.path.stem,
            licence=top["licence"].text() if "licence" in top else "not stated",
            languages=self.languages,
            bleu_tokenizers={language: node.text() for language, node in tokenizers.items()},
            train=self.sources(top["train"]),
            dev=self.sources(top["dev"]),
            tests=self.sources(top["tests"]),
        )

    def location(self, node: _Node) -> Location:
        entry = node.mapping(_LOCATION)
        ways = [key for key in ("url", "parts", "path") if key in entry]
        if len(ways) != 1:
            raise node.error(f"found {' and '.join(ways) or 'none'} of url, parts, path; accepted: exactly one of them")
        if "url" not in entry and (stray := {"sha256", "md5", "bytes"} & set(entry)):
            raise node.error(f"{min(stray)} belongs to a url; accepted here: {ways[0]}, format")
        if "path" in entry:
            path = self.path.parent / Path(entry["path"].text()).expanduser()
            return Location(path=path, format=_kind(entry, path.name))
        if "parts" in entry:
            parts = tuple(_part(item.mapping(_PART), item) for item in entry["parts"].items())
        else:
            parts = (_part(entry, node),)
        kind = _kind(entry, re.sub(r"\.\d+$", "", PurePosixPath(urlsplit(parts[0].url).path).name))
        if kind == "zip" and len(parts) > 1:
            raise node.error("a zip archive cannot be read in parts; accepted: tar and single-file formats")
        return Location(parts=parts, format=kind)

    def sources(self, node: _Node) -> tuple[ParallelSource, ...]:
        sources = tuple(self.source(item) for item in node.items())
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise node.error(f"the name '{name}' is given twice")
        return sources

    def source(self, node: _Node) -> ParallelSource:
        entry = node.mapping(_SOURCE)
        name = _required(node, entry, "name").text()
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise entry["name"].error(f"found '{name}'; accepted: letters, digits, and . _ + -")
        format_ = entry["format"].choice(TEXT_FORMATS, "format") if "format" in entry else "text"
        columns: tuple[str, ...] = ()
        if format_ in ("tsv", "pipes"):
            accepted = (*self.languages, SKIPPED_COLUMN)
            items = _required(node, entry, "columns").items()
            columns = tuple(item.choice(accepted, "language") for item in items)
            named = [column for column in columns if column != SKIPPED_COLUMN]
            if len(named) < 2 or len(set(named)) < len(named):
                raise entry["columns"].error("accepted: two or more different languages")
        elif "columns" in entry:
            raise entry["columns"].error(f"has no meaning for the format '{format_}'")
        if TEXT_FORMATS[format_]:
            sides = self.sides(node, entry)
        else:
            held = [column for column in columns if column != SKIPPED_COLUMN] or self.languages
            sides = dict.fromkeys(held, self.single_side(node, entry))
        alignments, order = self.alignments(entry["alignments"]) if "alignments" in entry else (None, ())
        return ParallelSource(
            name=name,
            format=format_,
            sides=sides,
            columns=columns,
            lines=entry["lines"].count() if "lines" in entry else 0,
            alignments=alignments,
            alignment_order=order,
        )

    def sides(self, node: _Node, entry: Mapping[str, _Node]) -> dict[str, TextLocation]:
        """One file a language: ``files``; or ``archive`` (one for all, or one each) with ``members``."""
        _exclude(entry, {"file": "files", "member": "members"}, "this format has a file for each language")
        if "files" in entry:
            _exclude(entry, {"archive": "files", "members": "files"}, "files are given already")
            files = entry["files"].mapping(self.languages)
            sides = {language: TextLocation(archive=self.local(file)) for language, file in files.items()}
        else:
            members = entry["members"].mapping(self.languages) if "members" in entry else {}
            archive = _required(node, entry, "archive")
            if isinstance(archive.tree, Scalar):
                archives = dict.fromkeys(members, archive)
            else:
                archives = archive.mapping(self.languages)
                for language in members.keys() - archives.keys():
                    raise members[language].error("its archive is not given")
            sides = {language: self.side(name, members.get(language)) for language, name in archives.items()}
        if len(sides) < 2:
            raise node.error("holds fewer than two languages; accepted: files, or archive with members")
        return sides

    def single_side(self, node: _Node, entry: Mapping[str, _Node]) -> TextLocation:
        """One file for all languages: ``file``; or ``archive`` with ``member``."""
        _exclude(entry, {"files": "file", "members": "member"}, "this format has one file for all languages")
        if "file" in entry:
            _exclude(entry, {"archive": "file", "member": "file"}, "a file is given already")
            return TextLocation(archive=self.local(entry["file"]))
        return self.side(_required(node, entry, "archive"), entry.get("member"))

    def side(self, archive_name: _Node, member: _Node | None) -> TextLocation:
        archive = self.archives[archive_name.choice(self.archives, "archive")]
        for location in archive.locations:
            single = ARCHIVE_FORMATS[location.format][0] == "file"
            if single and member:
                raise member.error(f"'{location}' is a single file; accepted: no member")
            if not single and not member:
                raise archive_name.error(f"'{location}' is a {location.format} archive, and no member of it is named")
        return TextLocation(archive=archive, member=member.text() if member else "")

    def local(self, node: _Node) -> Archive:
        path = self.local_path(node)
        kind = archive_format_of(path.name)
        if ARCHIVE_FORMATS[kind][0] != "file":
            raise node.error(f"found a {kind} archive; name it under archives (by its path) and its members here")
        return Archive(name=str(path), locations=(Location(path=path, format=kind),))

    def local_path(self, node: _Node) -> Path:
        """A path of the task file, which starts from its folder."""
        return Path(os.path.normpath(self.path.parent / Path(node.text()).expanduser()))

    def alignments(self, node: _Node) -> tuple[Path, tuple[str, ...]]:
        entry = node.mapping(("file", "order"))
        items = _required(node, entry, "order").items()
        order = tuple(item.choice(self.languages, "language") for item in items)
        if len(order) != 2 or order[0] == order[1]:
            raise entry["order"].error(f"found {', '.join(order)}; accepted: the two languages of a link i-j")
        return self.local_path(_required(node, entry, "file")), order


def _required(parent: _Node, entry: Mapping[str, _Node], key: str) -> _Node:
    if key not in entry:
        raise parent.error(f"{key} is missing")
    return entry[key]


def _exclude(entry: Mapping[str, _Node], instead: Mapping[str, str], reason: str) -> None:
    for key, accepted in instead.items():
        if key in entry:
            raise entry[key].error(f"{reason}; accepted: {accepted}")


def _part(entry: Mapping[str, _Node], node: _Node) -> RemoteFile:
    url = _required(node, entry, "url").text()
    if not _is_web_address(url):
        raise entry["url"].error(f"found '{url}'; accepted: an http:// or https:// address")
    return RemoteFile(
        url=url,
        sha256=entry["sha256"].hexadecimal(64) if "sha256" in entry else "",
        md5=entry["md5"].hexadecimal(32) if "md5" in entry else "",
        size=entry["bytes"].count() if "bytes" in entry else 0,
    )


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that make no sense
        return False


def _kind(entry: Mapping[str, _Node], file_name: str) -> str:
    return entry["format"].choice(ARCHIVE_FORMATS, "format") if "format" in entry else archive_format_of(file_name)
