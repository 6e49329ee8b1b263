"""Builder of frozen dataclasses from a YAML tree, strict about keys, types and bounds.

Configurations and task files are read by it. A field may hold a plain value (bool, int, float, str, a Literal), a
dataclass, ``tuple[X, ...]``, ``dict[str, X]``, or a union of such types. Its metadata may hold ``low`` and ``high``
(inclusive bounds of a number), or ``pattern`` and ``wanted`` (a regular expression for text, taken as it is written,
and its description).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nmt_rela.config.yaml_nodes import List, Mapping, Scalar, Tree, describe_node, printable
from nmt_rela.utils.errors import ConfigError, did_you_mean, similar_names

T = TypeVar("T")

#: Integers are stored in 64 bits.
_MAX_INT = 2**63 - 1
_READERS: dict[Any, tuple[Any, str]] = {
    bool: (Scalar.as_bool, "true or false"),
    int: (Scalar.as_int, "a whole number"),
    float: (Scalar.as_float, "a number"),
    str: (Scalar.as_text, "text"),
}


def build(cls: type[T], tree: Mapping, name: str, *, page: str) -> tuple[T, dict[str, str]]:
    """An instance of a dataclass, and where each key path that the tree holds is written (``file:line``).

    Args:
        name: stands for the file where a required key is missing.
        page: the page of the manual that describes the keys, for messages.

    Raises:
        ConfigError: an unknown or missing key, or a value that is not accepted. One line: position, key path, what was
            found and what is accepted.
    """
    builder = _Builder(cls, page)
    built = builder.section(cls, tree, "", name)
    if builder.missing:
        position = builder.missing[0][0]
        paths = [path for where, path in builder.missing if where == position]
        raise ConfigError(f"{position}: missing required key{'s' * (len(paths) > 1)}: {', '.join(paths)}")
    return built, builder.positions


def key_paths(cls: type, prefix: str = "") -> Iterator[str]:
    """The paths of all plain settings (``model.num_heads``) of a dataclass, in the order of the fields."""
    for item in dataclasses.fields(cls):
        inner = field_types(cls)[item.name]
        if dataclasses.is_dataclass(inner):
            yield from key_paths(inner, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + item.name


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The resolved type of each field of a dataclass."""
    return get_type_hints(cls)


class _Builder:
    """One traversal of a tree. Missing keys are collected: a misspelt key is often the reason and is named first."""

    def __init__(self, root: type, page: str) -> None:
        self.root, self.page = root, page
        self.positions: dict[str, str] = {}
        self.missing: list[tuple[str, str]] = []

    def section(self, cls: type, tree: Mapping, prefix: str, position: str) -> Any:
        fields = {item.name: item for item in dataclasses.fields(cls)}
        for key in tree.entries:
            if key not in fields:
                elsewhere = [path for path in key_paths(self.root) if path.split(".")[-1] == key]
                near = " or ".join(map(repr, similar_names(key, fields) + elsewhere))
                hint = f"did you mean {near}?" if near else did_you_mean(key, fields, page=self.page)
                raise ConfigError(f"{tree.positions[key]}: {prefix}{printable(key)}: unknown key; {hint}")
        values: dict[str, Any] = {}
        missing = len(self.missing)
        for key, item in fields.items():
            path, expected, found = prefix + key, field_types(cls)[key], tree.entries.get(key)
            if dataclasses.is_dataclass(expected):
                # An absent or empty section has the defaults of all its keys.
                inner = (
                    Mapping(tree.position) if found is None or (isinstance(found, Scalar) and found.is_null) else found
                )
                if not isinstance(inner, Mapping):
                    raise ConfigError(
                        f"{inner.position}: {path}: expected a section of keys, found {describe_node(inner)}"
                    )
                values[key] = self.section(expected, inner, f"{path}.", position)  # type: ignore[arg-type]
            elif found is not None:
                self.positions[path] = tree.positions[key]
                values[key] = self.value(expected, found, path, item.metadata)
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                self.missing.append((position, path))
        return cls(**values) if len(self.missing) == missing else None

    def value(self, expected: Any, found: Tree, path: str, limits: Any) -> Any:
        """A value of the expected type, or of one of its alternatives, within its limits."""
        options = get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,)
        for option in options:
            item_types = get_args(option)
            if dataclasses.is_dataclass(option) and isinstance(found, Mapping):
                return self.section(option, found, f"{path}.", found.position)  # type: ignore[arg-type]
            if get_origin(option) is dict and isinstance(found, Mapping):
                for key, position in found.positions.items():
                    self.positions[f"{path}.{key}"] = position
                entries = found.entries.items()
                return {key: self.value(item_types[1], tree, f"{path}.{key}", limits) for key, tree in entries}
            if get_origin(option) is tuple and isinstance(found, List) and found.items:
                for index, tree in enumerate(found.items):
                    self.positions[f"{path}[{index}]"] = tree.position
                items = enumerate(found.items)
                return tuple(self.value(item_types[0], tree, f"{path}[{index}]", limits) for index, tree in items)
        plain = [option for option in options if option in _READERS or get_origin(option) is Literal]
        if not plain:
            wanted = "a list with at least one entry" if get_origin(options[0]) is tuple else "a mapping"
            raise ConfigError(f"{found.position}: {path}: expected {wanted}, found {describe_node(found)}")
        return _scalar(plain, found, path, limits)


def _scalar(options: Sequence[Any], found: Tree, path: str, limits: Any) -> Any:
    """A plain value of exactly one of the types, within its limits. A word, such as auto, may be beside a number."""
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    if isinstance(found, Scalar) and found.text in words:
        return found.text
    readable = [option for option in options if option in _READERS]
    if not readable:
        hint = did_you_mean(found.text, words) if isinstance(found, Scalar) else f"accepted: {', '.join(words)}"
        raise ConfigError(f"{found.position}: {path}: found {describe_node(found)}; {hint}")
    if "pattern" in limits:
        # Taken as written: an unquoted checksum or name may look like a number.
        if isinstance(found, Scalar) and re.fullmatch(limits["pattern"], found.text):
            return found.text
        raise ConfigError(f"{found.position}: {path}: found {describe_node(found)}; accepted: {limits['wanted']}")
    expected = readable[0]
    reader, wanted = _READERS[expected]
    wanted = " or ".join([wanted, *words])
    value = reader(found) if isinstance(found, Scalar) else None
    if value is None:
        quotes = " in quotes" if expected is str and isinstance(found, Scalar) and not found.is_null else ""
        number = found.as_float() if expected is int and isinstance(found, Scalar) else None
        # 010 is left out: it is 8 for some readers of YAML and 10 for others.
        whole = number is not None and number.is_integer() and not found.text.isdecimal()  # type: ignore[union-attr]
        hint = f"; write {number:.0f}" if whole else ""
        raise ConfigError(f"{found.position}: {path}: expected {wanted}{quotes}, found {describe_node(found)}{hint}")
    low, high = limits.get("low"), limits.get("high")
    if expected is int and high is None and value > _MAX_INT:
        high = _MAX_INT
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError(f"{found.position}: {path}: found {value}; accepted: {_range(low, high)}")
    return value


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"
