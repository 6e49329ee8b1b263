"""Settings survive being written and read; nothing but ConfigError comes out of a bad document."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt_rela.config.builder import key_paths
from nmt_rela.config.loader import (
    config_from_yaml,
    config_to_yaml,
    diff_configs,
    override_config,
)
from nmt_rela.config.schema import Config
from nmt_rela.utils.errors import ConfigError

TRAPS = [
    "no",
    "on",
    "yes",
    "true",
    "null",
    "~",
    "1e8",
    "0x1F",
    "1_000",
    "1:30",
    "2024-01-01",
    ".inf",
    "-",
    "a: b",
    "# c",
]
texts = st.one_of(st.text(min_size=1), st.sampled_from(TRAPS))


def values(hint: Any, bounds: Any) -> st.SearchStrategy[Any]:
    """Any value a field accepts."""
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return settings(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is dict:
        return st.just({})  # overrides merge mappings, so not every one leads to every other
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0], bounds), min_size=1, unique=True).map(tuple)
    low, high = bounds.get("low"), bounds.get("high")
    plain = {
        bool: st.booleans(),
        int: st.integers(low, high if high is not None else 2**63 - 1),
        float: st.floats(low, high, allow_nan=False, allow_infinity=False),
        str: texts.filter(lambda text: text[0] != "~" and "\0" not in text) if bounds.get("is_path") else texts,
    }
    return plain[hint] if hint in plain else st.one_of(*(values(choice, bounds) for choice in get_args(hint)))


def settings(hint: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(hint)
    fields = {field.name: values(hints[field.name], field.metadata) for field in dataclasses.fields(hint)}
    return st.builds(hint, **fields)


def obeying(config: Config) -> Config:
    """The nearest configuration that keeps the rules between keys."""
    data, model, training = config.data, config.model, config.training
    names = {
        name: getattr(data, name) if getattr(data, name).strip() else "x"
        for name in ("task", "source_language", "data_dir")
    }
    data = dataclasses.replace(data, **names, target_language=names["source_language"] + "2")
    tied = model.tied_embeddings if data.joint_vocabulary else "none"
    model = dataclasses.replace(model, d_model=model.num_heads * min(model.d_model, 7), tied_embeddings=tied)
    rate = training.learning_rate if training.lr_schedule == "noam" else min(training.learning_rate, 0.1)
    guided = dataclasses.replace(training.guided_alignment, layer="auto", heads=1)
    training = dataclasses.replace(training, learning_rate=rate, checkpoint_metric="loss", guided_alignment=guided)
    run = config.run_dir if config.run_dir.strip() else "r"
    decoding = config.decoding
    decoding = dataclasses.replace(decoding, min_length=min(decoding.min_length, decoding.max_length_offset + 1))
    evaluation = dataclasses.replace(config.evaluation, comet_model=config.evaluation.comet_model.strip() or "x")
    sections = {"data": data, "model": model, "training": training, "decoding": decoding, "evaluation": evaluation}
    return dataclasses.replace(config, run_dir=run, **sections)


configs = settings(Config).map(obeying).filter(lambda config: config.model.d_model < 2**63)


@hypothesis.settings(deadline=None)
@given(configs)
def test_written_settings_read_back_exactly(config: Config) -> None:
    again = config_from_yaml(config_to_yaml(config))
    assert again == config
    assert repr(again) == repr(config)  # 1 is not 1.0, nor True
    assert diff_configs(config, again) == []


def as_yaml(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        assert not isinstance(value, type)
        return json.dumps(dataclasses.asdict(value))
    return json.dumps(value)


@hypothesis.settings(deadline=None)
@given(configs, configs)
def test_differences_are_exactly_the_overrides_that_lead_from_one_to_the_other(old: Config, new: Config) -> None:
    ascii_only = {
        "run_dir": "r",
        "training": dataclasses.replace(new.training, initialize_from="s"),
        "evaluation": dataclasses.replace(new.evaluation, comet_model="c"),
    }
    new = dataclasses.replace(new, **ascii_only, data=dataclasses.replace(old.data, joint_vocabulary=True))
    found = diff_configs(old, new)
    assert {difference.path for difference in found} <= {*key_paths(Config)} | {
        f"model.attention.{site}" for site in ("encoder", "decoder", "cross")
    }
    assert override_config(old, [f"{difference.path}={as_yaml(difference.new)}" for difference in found]) == new


def refusal(text: str) -> str:
    """The message a document is refused with, or nothing."""
    try:
        config_from_yaml(text, "c.yaml")
    except ConfigError as error:
        return str(error)
    return "c.yaml"


def is_one_line_with_its_place(message: str) -> bool:
    return "\n" not in message and message.startswith("c.yaml")


@given(st.text())
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    assert is_one_line_with_its_place(refusal(text))


@given(configs, st.data())
def test_a_damaged_document_is_read_or_refused_in_one_line(config: Config, data: st.DataObject) -> None:
    text = config_to_yaml(config)
    place = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 3))
    piece = data.draw(st.text(alphabet="aé:#-[]{}&*!|>'\"%@`,? \n\t\0", max_size=3))
    assert is_one_line_with_its_place(refusal(text[:place] + piece + text[place + length :]))


@given(st.sampled_from(sorted(key_paths(Config))), st.text(alphabet="abcxyz_", min_size=1, max_size=3), st.data())
def test_a_misspelt_key_is_refused_and_named(path: str, extra: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(path)))
    wrong = path[:place] + extra + path[place:]
    if wrong in key_paths(Config):
        return
    with pytest.raises(ConfigError) as caught:
        override_config(
            config_from_yaml("run_dir: r\ndata: {task: t, source_language: a, target_language: b}"), [f"{wrong}=1"]
        )
    assert "unknown key" in str(caught.value)
    assert wrong in str(caught.value)


NUMERIC = [
    (f"{section.name}.{field.name}", field.metadata)
    for section in dataclasses.fields(Config)
    if dataclasses.is_dataclass(get_type_hints(Config)[section.name])
    for field in dataclasses.fields(get_type_hints(Config)[section.name])
    if "low" in field.metadata and field.name != "weights"
]


@given(st.sampled_from(NUMERIC), st.integers(1, 10**6))
def test_a_number_out_of_bounds_is_refused(field: tuple[str, Any], beyond: int) -> None:
    path, bounds = field
    sides = [bounds["low"] - beyond] if bounds["low"] is not None else []
    sides += [bounds["high"] + beyond] if bounds["high"] is not None else []
    for value in sides:
        with pytest.raises(ConfigError, match="accepted: "):
            override_config(
                config_from_yaml("run_dir: r\ndata: {task: t, source_language: a, target_language: b}"),
                [f"{path}={value}"],
            )
