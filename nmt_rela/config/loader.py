"""Strict YAML to the frozen settings of ``schema.py``, and back.

A file may start from another one (``extends: base.yaml``, relative to itself) and is merged over it key by key;
overrides ``section.key=value`` are merged last. Every key must exist, every value must have the field's exact type
(a whole number may stand for a decimal one) and lie within its bounds. A mistake raises ``ConfigError``: one line
with the file and line, or the override, the key path, what was found and what is accepted.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from nmt_rela.config.schema import Config
from nmt_rela.config.yaml_nodes import Mapping, Scalar, Tree, described, looks_like_number, merge, parse, printable
from nmt_rela.utils.errors import ConfigError, did_you_mean

#: Whole numbers end up in 64 bits.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigChange:
    """One setting that two configurations disagree about."""

    #: Key path, such as ``model.heads``.
    path: str
    old: Any
    new: Any


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, what it extends, and ``section.key=value`` overrides. Raises ConfigError."""
    name = str(path)
    return _build_config(_with_overrides(_read(Path(path), ()), overrides), name)


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with ``section.key=value`` overrides applied. Raises ConfigError that names the override."""
    tree = _mapping(parse(config_to_yaml(config), "config", fixed_place=True))
    return _build_config(_with_overrides(tree, overrides), "config")


def config_from_yaml(text: str, name: str = "config") -> Config:
    """Read what :func:`config_to_yaml` wrote; ``name`` stands for the file in errors. Raises ConfigError."""
    return _build_config(_mapping(parse(text, name)), name)


def config_to_yaml(config: Config) -> str:
    """Every setting, in the order of the schema, as YAML that reads back as an equal configuration."""
    return yaml.dump(
        dataclasses.asdict(config),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=10**6,
    )


def diff_configs(old: Config, new: Config) -> list[ConfigChange]:
    """The settings in which two configurations differ, in the order of the schema."""
    return list(_differences(old, new, ""))


def key_paths(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """The paths of all settings (``model.heads``), in the order of the schema; sections themselves are not listed."""
    for item in dataclasses.fields(kind):
        inner = _section(_types(kind)[item.name])
        if inner is None:
            yield prefix + item.name
        else:
            yield from key_paths(inner, f"{prefix}{item.name}.")


# Reading files


def _read(path: Path, extended_by: tuple[Path, ...]) -> Mapping:
    """A file merged over what it extends. ``extended_by``: the resolved files that led here."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        siblings = [str(path.with_name(other.name)) for other in sorted(path.parent.glob("*.yaml"))]
        hint = f"; {did_you_mean(str(path), siblings)}" if siblings else ""
        raise ConfigError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; expected a YAML file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: invalid UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    tree = _mapping(parse(text, str(path)))
    _anchor_task(tree, path.parent)
    parent = tree.entries.pop("extends", None)
    if parent is None:
        return tree
    where = tree.places.pop("extends")
    parent_name = parent.as_text() if isinstance(parent, Scalar) else None
    if not parent_name or "\0" in parent_name:
        raise ConfigError(f"{where}: extends: expected the name of a YAML file, found {described(parent)}")
    parent_path = Path(os.path.normpath(path.parent / parent_name))
    chain = (*extended_by, path.resolve())
    if parent_path.resolve() in chain:
        raise ConfigError(f"{where}: extends: {parent_path} extends itself, by way of {path}")
    try:
        below = _read(parent_path, chain)
    except ConfigError as error:
        raise ConfigError(f"{where}: extends: {error}") from None
    merged = merge(below, tree)
    assert isinstance(merged, Mapping)
    return merged


def _mapping(tree: Tree) -> Mapping:
    """The sections of a document; an empty document has none."""
    if isinstance(tree, Mapping):
        return tree
    if isinstance(tree, Scalar) and tree.is_null:
        return Mapping(tree.place)
    raise ConfigError(f"{tree.place}: expected 'key: value' lines, found {described(tree)}")


def _anchor_task(tree: Mapping, folder: Path) -> None:
    """A task file is named relative to the configuration that names it; from here on its path is absolute."""
    data = tree.entries.get("data")
    task = data.entries.get("task") if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and isinstance(task, Scalar) and ("/" in task.text or _is_yaml(task.text)):
        absolute = os.path.normpath(folder.absolute() / os.path.expanduser(task.text))
        data.entries["task"] = Scalar(task.place, absolute, quoted=True)


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _with_overrides(tree: Mapping, overrides: Sequence[str]) -> Mapping:
    for override in overrides:
        place = f"override '{printable(override)}'"
        path, equals, value = override.partition("=")
        if not equals:
            hint = "; a configuration file is given by --config" if _is_yaml(path) else ""
            raise ConfigError(f"{place}: expected section.key=value{hint}")
        above = parse(value, place, fixed_place=True) if value else Scalar(place, "", quoted=True)
        for key in reversed(path.strip().split(".")):
            above = Mapping(place, {key: above}, {key: place})
        assert isinstance(above, Mapping)
        _anchor_task(above, Path())
        merged = merge(tree, above)
        assert isinstance(merged, Mapping)
        tree = merged
    return tree


# From the tree to the settings


def _build_config(tree: Mapping, name: str) -> Config:
    places: dict[str, str] = {}
    _check_keys(Config, tree, "")
    _check_complete(Config, tree, "", name)
    config: Config = _build(Config, tree, "", places)
    _check_rules(config, lambda path: f"{places.get(path, name)}: {path}")
    return config


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _section(expected: Any) -> type | None:
    """The dataclass a field holds, or None for a field with a plain value (or a choice of the two)."""
    return expected if isinstance(expected, type) and dataclasses.is_dataclass(expected) else None


def _check_keys(kind: type, tree: Mapping, prefix: str) -> None:
    """Every key must be known. Done for the whole tree first: a misspelt key is the reason for a missing one."""
    known = [item.name for item in dataclasses.fields(kind)]
    for key, value in tree.entries.items():
        if key not in known:
            elsewhere = [path for path in key_paths() if path.split(".")[-1] == key]
            hint = f"did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else did_you_mean(key, known)
            raise ConfigError(f"{tree.places[key]}: {prefix}{printable(key)}: unknown key; {hint}")
        inner = _section(_types(kind)[key])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(inner, value, f"{prefix}{key}.")


def _check_complete(kind: type, tree: Mapping, prefix: str, place: str) -> None:
    missing = list(_missing(kind, tree, prefix))
    if missing:
        raise ConfigError(f"{place}: missing required key{'s' * (len(missing) > 1)}: {', '.join(missing)}")


def _missing(kind: type, tree: Mapping, prefix: str) -> Iterator[str]:
    for item in dataclasses.fields(kind):
        found, section = tree.entries.get(item.name), _section(_types(kind)[item.name])
        if section is not None:
            inner = found if isinstance(found, Mapping) else Mapping(tree.place)
            yield from _missing(section, inner, f"{prefix}{item.name}.")
        elif found is None and item.default is dataclasses.MISSING:
            yield prefix + item.name


def _build(kind: type, tree: Mapping, prefix: str, places: dict[str, str]) -> Any:
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        path, expected = prefix + item.name, _types(kind)[item.name]
        found = tree.entries.get(item.name)
        section = _section(expected)
        if section is not None:
            # An absent or empty section is one that has nothing but defaults.
            inner = Mapping(tree.place) if found is None or (isinstance(found, Scalar) and found.is_null) else found
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{inner.place}: {path}: expected a section of keys, found {described(inner)}")
            values[item.name] = _build(section, inner, f"{path}.", places)
        elif found is not None:
            places[path] = tree.places[item.name]
            values[item.name] = _value(expected, found, path, item.metadata)
    return kind(**values)


def _value(expected: Any, found: Tree, path: str, bounds: Any) -> Any:
    """A plain value of exactly the expected type, within bounds."""
    kinds = get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,)
    inner = next((kind for kind in kinds if _section(kind) is not None), None)
    if inner is not None and isinstance(found, Mapping):
        _check_keys(inner, found, f"{path}.")
        _check_complete(inner, found, f"{path}.", found.place)
        return _build(inner, found, f"{path}.", {})
    plain = next(kind for kind in kinds if kind is not inner)
    if get_origin(plain) is Literal:
        choices = get_args(plain)
        if isinstance(found, Scalar) and found.text in choices:
            return found.text
        hint = did_you_mean(found.text, choices) if isinstance(found, Scalar) else f"accepted: {', '.join(choices)}"
        raise ConfigError(f"{found.place}: {path}: found {described(found)}; {hint}")
    reader, wanted = _READERS[plain]
    value = reader(found) if isinstance(found, Scalar) else None
    if value is None:
        quotes = " in quotes" if plain is str and isinstance(found, Scalar) and not found.is_null else ""
        raise ConfigError(f"{found.place}: {path}: expected {wanted}{quotes}, found {described(found)}")
    low, high = bounds.get("low"), bounds.get("high")
    if plain is int and high is None and value > _LARGEST:
        high = _LARGEST
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError(f"{found.place}: {path}: found {value}; accepted: {_range(low, high)}")
    return value


_READERS: dict[Any, tuple[Any, str]] = {
    bool: (Scalar.as_bool, "true or false"),
    int: (Scalar.as_int, "a whole number"),
    float: (Scalar.as_float, "a number"),
    str: (Scalar.as_text, "text"),
}


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"


def _check_rules(config: Config, at: Any) -> None:
    """What no field can say alone."""
    data, model, training = config.data, config.model, config.training
    for path, text in {
        "run": config.run,
        "data.task": data.task,
        "data.source_language": data.source_language,
        "data.target_language": data.target_language,
        "data.data_dir": data.data_dir,
    }.items():
        if not text.strip():
            raise ConfigError(f"{at(path)}: must not be empty")
    if data.source_language == data.target_language:
        raise ConfigError(
            f"{at('data.target_language')}: found '{data.target_language}', as in data.source_language; "
            "expected another language"
        )
    if model.dimension % model.heads:
        raise ConfigError(
            f"{at('model.heads')}: found {model.heads}, which does not divide model.dimension ({model.dimension})"
        )
    if model.tied_embeddings == "all" and not data.joint_vocabulary:
        raise ConfigError(
            f"{at('model.tied_embeddings')}: 'all' needs data.joint_vocabulary: true; accepted without it: target, none"
        )
    if training.schedule != "noam" and training.learning_rate > 0.1:
        raise ConfigError(
            f"{at('training.learning_rate')}: found {training.learning_rate}, a factor for the schedule noam; "
            f"{training.schedule} takes the highest rate itself, accepted: 0.1 or less"
        )
    if training.best_by == "bleu" and training.validate_sentences == 0 and (training.keep_best or training.patience):
        raise ConfigError(
            f"{at('training.best_by')}: 'bleu' needs translations, but training.validate_sentences is 0; "
            "accepted with it: loss"
        )


# From the settings to text


def _differences(old: Any, new: Any, prefix: str) -> Iterator[ConfigChange]:
    for item in dataclasses.fields(old):
        path, before, after = prefix + item.name, getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            yield from _differences(before, after, f"{path}.")
        elif before != after:
            yield ConfigChange(path=path, old=before, new=after)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that a YAML reader, ours or another, could take for something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quoted = looks_like_number(text) or not text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _represent_text)
