"""Builder of frozen dataclasses from a YAML tree, strict about keys, types and bounds.

Configurations and task files are read by it. A field may hold a plain value (bool, int, float, str, a Literal), a
dataclass, ``tuple[X, ...]``, ``dict[str, X]``, or a union of such types. Its metadata may hold ``low`` and ``high``
(inclusive bounds of a number), ``pattern`` and ``wanted`` (a regular expression for text, taken as it is written, and
its description), or ``is_path`` (``~`` is expanded).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import numbers
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nmt_rela.config.yaml_nodes import List, Mapping, Scalar, Tree, describe_node, printable
from nmt_rela.utils.errors import ConfigError, UserError, did_you_mean, similar_names
from nmt_rela.utils.files import expand_user

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

#: Integers are stored in 64 bits.
_MAX_INT = 2**63 - 1
_READERS: dict[Any, tuple[Any, str]] = {
    bool: (Scalar.as_bool, "true or false"),
    int: (Scalar.as_int, "a whole number"),
    float: (Scalar.as_float, "a number"),
    str: (Scalar.as_text, "text"),
}


def build(
    cls: type[T],
    tree: Mapping,
    name: str,
    *,
    page: str,
    other_names: collections.abc.Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> tuple[T, dict[str, str]]:
    """An instance of a dataclass, and where each key path that the tree holds is written (``file:line``).

    Args:
        name: stands for the file where a required key is missing.
        page: the page of the manual that describes the keys, for messages.
        other_names: names of other programs, and the key paths that an error offers instead.

    Raises:
        ConfigError: an unknown or missing key, or a value that is not accepted. One line: position, key path, what was
            found and what is accepted.
    """
    builder = _Builder(cls, page, other_names)
    built = builder.section(cls, tree, "", name)
    if builder.missing:
        position = builder.missing[0][0]
        paths = [path for where, path in builder.missing if where == position]
        raise ConfigError(f"{position}: missing required key{'s' * (len(paths) > 1)}: {', '.join(paths)}")
    return built, builder.positions


def read_value(expected: type, text: str, limits: Any) -> Any:
    """A number that stands alone, such as that of an option. Raises ConfigError without a place."""
    try:
        return _scalar([expected], Scalar("", text), "", limits)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix(": : ")) from None


def check_fields(instance: DataclassInstance) -> None:
    """Check a dataclass that Python code has made as `build` checks one that is read. Raises ConfigError."""
    for item in dataclasses.fields(instance):
        value, hint = getattr(instance, item.name), field_types(type(instance))[item.name]
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        limits = item.metadata.get("low"), item.metadata.get("high")
        if not any(_is_accepted(value, option, limits) for option in options):
            accepted = " or ".join(_describe(option, limits) for option in options)
            raise ConfigError(f"{item.name}: found {value!r}; accepted: {accepted}")


def _is_accepted(value: Any, option: Any, limits: tuple[float | None, float | None]) -> bool:
    if get_origin(option) is Literal:
        return isinstance(value, str) and value in get_args(option)
    if option not in (int, float):
        return isinstance(value, option)
    if type(value) is bool or not isinstance(value, numbers.Integral if option is int else numbers.Real):
        return False
    low, high = (-_MAX_INT if limits[0] is None else limits[0]), (_MAX_INT if limits[1] is None else limits[1])
    return low <= float(value) <= high  # which NaN is not


def _describe(option: Any, limits: tuple[float | None, float | None]) -> str:
    if get_origin(option) is Literal:
        return ", ".join(map(repr, get_args(option)))
    if option not in _READERS:
        return "None" if option is types.NoneType else option.__name__
    return f"{_READERS[option][1]}, {_range(*limits)}" if option in (int, float) else _READERS[option][1]


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

    def __init__(self, root: type, page: str, other_names: collections.abc.Mapping[str, Sequence[str]]) -> None:
        self.root, self.page, self.other_names = root, page, other_names
        self.positions: dict[str, str] = {}
        self.missing: list[tuple[str, str]] = []

    def section(self, cls: type, tree: Mapping, prefix: str, position: str) -> Any:
        fields = {item.name: item for item in dataclasses.fields(cls)}
        for key in tree.entries:
            if key not in fields:
                near = " or ".join(map(repr, self.similar_paths(key, fields)))
                hint = f"did you mean {near}?" if near else did_you_mean(key, fields, page=self.page)
                section, dot, name = key.partition(".")
                if dot and not prefix and key in key_paths(self.root):
                    hint = f"in a file write {section}: {{{name}: …}}"
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

    def similar_paths(self, key: str, fields: Iterable[str]) -> list[str]:
        """Settings of the section that are called almost so, and those of other sections that are called so."""
        names: dict[str, list[str]] = {}
        for path in key_paths(self.root):
            names.setdefault(path.rpartition(".")[2], []).append(path)
        found = similar_names(key, fields) + names.get(key, []) + list(self.other_names.get(key, ()))
        return found or [path for name in similar_names(key, names) for path in names[name]]

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
            is_word = isinstance(found, Scalar) and not found.is_null and get_origin((*item_types, None)[0]) is Literal
            hint = f"; write [{printable(found.text)}]" if is_word else ""  # type: ignore[union-attr]
            raise ConfigError(f"{found.position}: {path}: expected {wanted}, found {describe_node(found)}{hint}")
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
    if limits.get("is_path"):
        try:
            return expand_user(value)
        except UserError as error:
            raise ConfigError(f"{found.position}: {path}: {error}") from None
    return value


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"
