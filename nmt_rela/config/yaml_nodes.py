"""YAML as a tree of nodes, each with its position (``file:line``).

Scalars stay text: only the reader of a field knows whether ``no`` is a language or false, and ``1e-8`` a number or a
word. Accepted is the plain core of YAML: one document of mappings, lists and scalars, without tags, anchors and aliases
(nothing is executed, nothing expands), and without a key given twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from nmt_rela.utils.errors import ConfigError, did_you_mean
from nmt_rela.utils.text import check_head

_NUMBER = re.compile(r"[-+]?((\d[\d_]*)?(\.\d*)?([eE][-+]?\d+)?|0[xob][\da-fA-F_]+)", re.ASCII)
_WHOLE = re.compile(r"[-+]?(0|[1-9]\d*(_\d+)*)", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(\d+(_\d+)*(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as it is written. A quoted one is always text."""

    position: str
    text: str
    quoted: bool = False

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text in _NULL

    def as_bool(self) -> bool | None:
        """true/false (yes/no, on/off), or None for anything else."""
        word = "" if self.quoted else self.text.lower()
        return True if word in _TRUE else False if word in _FALSE else None

    def as_int(self) -> int | None:
        """A whole number in decimal digits (``32_000`` too; ``010`` is no number), or None."""
        short = len(self.text) <= 40  # Python itself refuses to read several thousand digits
        return int(self.text) if short and not self.quoted and _WHOLE.fullmatch(self.text) else None

    def as_float(self) -> float | None:
        """A finite number (``1e-8`` too, which YAML 1.1 takes as a word), or None."""
        if self.quoted or not _DECIMAL.fullmatch(self.text):
            return None
        number = float(self.text)
        return number if abs(number) != float("inf") else None

    def as_text(self) -> str | None:
        """Text (``no`` and ``on`` too), or None for what looks like a number, ``true``, ``false`` or nothing."""
        if self.quoted:
            return self.text
        if self.is_null or self.text.lower() in ("true", "false") or looks_like_number(self.text):
            return None
        return self.text


@dataclass(frozen=True, slots=True)
class List:
    """A list and the position of its beginning."""

    position: str
    items: list[Tree] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping and the positions of its beginning and of each key."""

    position: str
    entries: dict[str, Tree] = field(default_factory=dict)
    positions: dict[str, str] = field(default_factory=dict)


Tree: TypeAlias = "Scalar | List | Mapping"


def looks_like_number(text: str) -> bool:
    """Whether unquoted text would be read as a number by this or another YAML reader."""
    return any(character.isdigit() for character in text) and _NUMBER.fullmatch(text) is not None


def read_file(path: Path) -> Tree:
    """The tree of a YAML file. Raises ConfigError where the file cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        siblings = [str(path.with_name(other.name)) for other in sorted(path.parent.glob("*.yaml"))]
        hint = f"; {did_you_mean(str(path), siblings)}" if siblings else ""
        raise ConfigError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; expected a YAML file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    check_head(data, str(path), ConfigError)
    try:
        return parse(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: invalid UTF-8 (byte 0x{data[error.start]:02x})") from None


def parse(text: str, name: str, *, fixed_position: bool = False) -> Tree:
    """Read one YAML document. Positions are ``name:line``, or ``name`` with ``fixed_position``. Raises ConfigError."""

    def position(mark: Any) -> str:
        return name if fixed_position or mark is None else f"{name}:{mark.line + 1}"

    loader = None
    try:
        loader = _Composer(text.removeprefix("\ufeff"))
        node = loader.get_single_node()
        return Scalar(name, "") if node is None else _tree(node, position)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        where = name if fixed_position else f"{name}:{line}"
        raise ConfigError(f"{where}: malformed YAML: the character U+{error.character:04X} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "cannot be read"
        raise ConfigError(f"{position(error.problem_mark or error.context_mark)}: malformed YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{name}: malformed YAML: nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Composer(yaml.SafeLoader):
    """PyYAML's composer without aliases, which could multiply, and without tags, which could construct objects."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            problem = "anchors (&) and aliases (*) are not accepted; quote the value if it is text"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        if event.tag is not None:
            problem = f"the tag {event.tag!r} is not accepted; quote the value if it is text"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def _tree(node: Any, position: Any) -> Tree:
    here = position(node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        return Scalar(here, node.value, quoted=node.style is not None)
    if isinstance(node, yaml.SequenceNode):
        return List(here, [_tree(item, position) for item in node.value])
    mapping = Mapping(here)
    for key, value in node.value:
        where = position(key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where}: a key must be a plain word")
        if key.value in mapping.entries:
            raise ConfigError(f"{where}: {printable(key.value)}: given twice, first at {mapping.positions[key.value]}")
        mapping.entries[key.value] = _tree(value, position)
        mapping.positions[key.value] = where
    return mapping


def merge(below: Tree, above: Tree) -> Tree:
    """``above`` merged over ``below``. Mappings merge key by key, an empty one changes nothing, other nodes replace."""
    if isinstance(below, Mapping) and isinstance(above, Scalar) and above.is_null:
        return below
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    entries = dict(below.entries)
    for key, value in above.entries.items():
        entries[key] = merge(entries[key], value) if key in entries else value
    return Mapping(above.position, entries, {**below.positions, **above.positions})


def printable(text: str) -> str:
    """Text for a one-line message: truncated when long, escaped when it holds control characters."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return short if short.isprintable() else repr(short)[1:-1]


def describe_node(tree: Tree) -> str:
    """What a node holds, for an error message."""
    if isinstance(tree, Mapping):
        return "a mapping"
    if isinstance(tree, List):
        return "a list" if tree.items else "an empty list"
    if tree.is_null:
        return "nothing"
    bare = not tree.quoted and (looks_like_number(tree.text) or tree.text.lower() in ("true", "false"))
    return printable(tree.text) if bare else f"the text '{printable(tree.text)}'"
