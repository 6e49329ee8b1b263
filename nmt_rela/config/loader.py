"""Configurations: strict YAML to the dataclasses of ``schema.py``, and back.

A file may extend another one (``extends: base.yaml``, relative to itself; ``extends: small``, which comes with the
package) and is merged over it key by key. Overrides ``section.key=value`` are merged last. Every key must exist, and
every value must have the field's exact type (a whole number may stand for a decimal one) and lie within its bounds. A
mistake raises ``ConfigError``: one line with the file and line, or the override, the key path, what was found and what
is accepted.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nmt_rela.config.builder import build
from nmt_rela.config.schema import OTHER_NAMES, Config
from nmt_rela.config.yaml_nodes import (
    Mapping,
    Scalar,
    Tree,
    describe_node,
    looks_like_number,
    merge,
    parse,
    printable,
    read_file,
)
from nmt_rela.utils.errors import ConfigError, UserError
from nmt_rela.utils.shipped import find_config, is_name

#: The page of the manual that describes every setting.
_PAGE = "docs/configuration.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigChange:
    """A setting in which two configurations differ."""

    #: Key path, such as ``model.num_heads``.
    path: str
    old: Any
    new: Any


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, what it extends, and ``section.key=value`` overrides. Raises ConfigError.

    Text may also be the name of a configuration that comes with the package: ``demo``.
    """
    file = find_config(path)
    return _build_config(_with_overrides(_read(file, ()), overrides), str(file))


@contextmanager
def name_file_of_setting(path: str | Path, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Put ``file:line`` before a UserError raised in the block whose message starts with a setting of the file.

    Such errors are found after reading, where a setting does not fit the task, the corpus or the machine.
    """
    file = find_config(path)
    tree = _with_overrides(_read(file, ()), overrides)
    _, positions = build(Config, tree, str(file), page=_PAGE, other_names=OTHER_NAMES)
    try:
        yield
    except UserError as error:
        position = positions.get(str(error).partition(":")[0], "override")
        if position.startswith("override"):
            raise
        raise type(error)(f"{position}: {error}") from error


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with ``section.key=value`` overrides applied. Raises ConfigError that names the override."""
    tree = _mapping(parse(config_to_yaml(config), "config", fixed_position=True))
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
    return list(_changes(old, new, ""))


# Reading files


def _read(path: Path, extended_by: tuple[Path, ...]) -> Mapping:
    """A file merged over what it extends. ``extended_by``: the resolved files that led here."""
    tree = _mapping(read_file(path))
    _resolve_task(tree, path.parent)
    parent = tree.entries.pop("extends", None)
    if parent is None:
        return tree
    where = tree.positions.pop("extends")
    parent_name = parent.as_text() if isinstance(parent, Scalar) else None
    if not parent_name or "\0" in parent_name:
        raise ConfigError(f"{where}: extends: expected the name of a YAML file, found {describe_node(parent)}")
    chain = (*extended_by, path.resolve())
    try:
        is_shipped = is_name(parent_name)
        parent_path = find_config(parent_name) if is_shipped else Path(os.path.normpath(path.parent / parent_name))
    except ConfigError as error:
        raise ConfigError(f"{where}: extends: {error}") from None
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
    """A document as a mapping of sections. An empty document has none."""
    if isinstance(tree, Mapping):
        return tree
    if isinstance(tree, Scalar) and tree.is_null:
        return Mapping(tree.position)
    raise ConfigError(f"{tree.position}: expected 'key: value' lines, found {describe_node(tree)}")


def _resolve_task(tree: Mapping, folder: Path) -> None:
    """Make the path of a task file absolute. It is relative to the configuration that names it."""
    data = tree.entries.get("data")
    task = data.entries.get("task") if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and isinstance(task, Scalar) and not is_name(task.text):
        absolute = os.path.normpath(folder.absolute() / os.path.expanduser(task.text))
        data.entries["task"] = Scalar(task.position, absolute, quoted=True)


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _with_overrides(tree: Mapping, overrides: Sequence[str]) -> Mapping:
    for override in overrides:
        position = f"override '{printable(override)}'"
        path, equals, value = override.partition("=")
        if not equals:
            hint = "; a configuration file is given by --config" if _is_yaml(path) else ""
            raise ConfigError(f"{position}: expected section.key=value{hint}")
        above = parse(value, position, fixed_position=True) if value else Scalar(position, "", quoted=True)
        for key in reversed(path.strip().split(".")):
            above = Mapping(position, {key: above}, {key: position})
        assert isinstance(above, Mapping)
        _resolve_task(above, Path())
        merged = merge(tree, above)
        assert isinstance(merged, Mapping)
        tree = merged
    return tree


# From the tree to the configuration


def _build_config(tree: Mapping, name: str) -> Config:
    config, positions = build(Config, tree, name, page=_PAGE, other_names=OTHER_NAMES)
    _check_rules(config, lambda path: f"{positions.get(path, name)}: {path}")
    if config.training.initialize_from and not config.data.vocabulary:
        # Weights mean something with their own vocabulary only.
        data = dataclasses.replace(config.data, vocabulary=config.training.initialize_from)
        config = dataclasses.replace(config, data=data)
    return config


def _check_rules(config: Config, at: Any) -> None:
    """Check the rules between keys. ``at`` gives the position and path of a key, for messages."""
    data, model, training, metrics = config.data, config.model, config.training, config.evaluation.metrics
    for path, text in {
        "run_dir": config.run_dir,
        "data.task": data.task,
        "data.source_language": data.source_language,
        "data.target_language": data.target_language,
        "data.data_dir": data.data_dir,
        "evaluation.comet_model": config.evaluation.comet_model,
    }.items():
        if not text.strip():
            raise ConfigError(f"{at(path)}: must not be empty")
    if data.weights and data.temperature != 1:
        raise ConfigError(f"{at('data.temperature')}: found beside data.weights; accepted: one of the two")
    if data.source_language == data.target_language:
        raise ConfigError(
            f"{at('data.target_language')}: found '{data.target_language}', as in data.source_language; "
            "expected another language"
        )
    if model.d_model % model.num_heads:
        raise ConfigError(
            f"{at('model.num_heads')}: found {model.num_heads}, which does not divide model.d_model ({model.d_model})"
        )
    if model.tied_embeddings == "all" and not data.joint_vocabulary:
        raise ConfigError(
            f"{at('model.tied_embeddings')}: 'all' needs data.joint_vocabulary: true; accepted without it: target, none"
        )
    if training.lr_schedule != "noam" and training.learning_rate > 0.1:
        raise ConfigError(
            f"{at('training.learning_rate')}: found {training.learning_rate}, a factor for the schedule noam; "
            f"{training.lr_schedule} takes the highest rate itself, accepted: 0.1 or less"
        )
    guided = training.guided_alignment
    if guided.layer != "auto" and guided.layer >= model.decoder_layers:
        raise ConfigError(
            f"{at('training.guided_alignment.layer')}: found {guided.layer}; accepted: 0 to {model.decoder_layers - 1} "
            f"(model.decoder_layers: {model.decoder_layers}), or auto"
        )
    if guided.heads > model.num_heads:
        raise ConfigError(
            f"{at('training.guided_alignment.heads')}: found {guided.heads}; accepted: 1 to {model.num_heads} "
            "(model.num_heads)"
        )
    if (
        training.checkpoint_metric != "loss"
        and training.validation_decode_sentences == 0
        and (training.keep_best_checkpoints or training.patience)
    ):
        raise ConfigError(
            f"{at('training.checkpoint_metric')}: '{training.checkpoint_metric}' needs translations, but "
            "training.validation_decode_sentences is 0; accepted with it: loss"
        )
    if twice := [name for number, name in enumerate(metrics) if name in metrics[:number]]:
        raise ConfigError(f"{at('evaluation.metrics')}: found '{twice[0]}' more than once; accepted: once")
    decoding = config.decoding
    if decoding.min_length > decoding.max_length_offset + 1:
        raise ConfigError(
            f"{at('decoding.min_length')}: found {decoding.min_length}; accepted: up to "
            f"decoding.max_length_offset + 1, which is {decoding.max_length_offset + 1}"
        )


# From configurations


def _changes(old: Any, new: Any, prefix: str) -> Iterator[ConfigChange]:
    for item in dataclasses.fields(old):
        path, before, after = prefix + item.name, getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            yield from _changes(before, after, f"{path}.")
        elif before != after:
            yield ConfigChange(path=path, old=before, new=after)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that a YAML reader, ours or another, could take for something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quoted = looks_like_number(text) or not text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _represent_text)
