"""Reading settings: what is accepted, and the one line that says what is not."""

from __future__ import annotations

import dataclasses
import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from nmt_rela.config.builder import key_paths
from nmt_rela.config.loader import (
    ConfigChange,
    config_from_yaml,
    config_to_yaml,
    diff_configs,
    load_config,
    override_config,
)
from nmt_rela.config.schema import AttentionBySite, Config, DataConfig, TrainingConfig
from nmt_rela.utils.errors import ConfigError, UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MINIMAL = "run_dir: runs/x\ndata:\n  task: demo\n  source_language: en\n  target_language: de\n"


def read(text: str) -> Config:
    return config_from_yaml(MINIMAL + text, "c.yaml")


def refusal(text: str) -> str:
    """The message for a document appended to the minimal one, which has five lines."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# What is accepted


def test_sections_without_keys_have_their_defaults() -> None:
    config = read("model:\ntraining: {}\n")
    assert config.training == TrainingConfig()
    assert config.data == DataConfig(task="demo", source_language="en", target_language="de")


def test_values_are_read_by_the_type_of_the_field() -> None:
    config = read("training: {adam_epsilon: 1e-8, max_grad_norm: 1, max_hours: .5, max_updates: 32_000, seed: 0}")
    assert repr(config.training.adam_epsilon) == "1e-08"
    assert repr(config.training.max_grad_norm) == "1.0"
    assert config.training.max_hours == 0.5
    assert config.training.max_updates == 32_000
    assert config.training.seed == 0
    for word, value in {"true": True, "False": False, "yes": True, "no": False, "on": True, "OFF": False}.items():
        assert read(f"model: {{embedding_bias: {word}}}").model.embedding_bias is value


@pytest.mark.parametrize("language", ["no", "on", "y", "'no'", '"12"', "2024-01-01", "zh_Hant", "1:30"])
def test_text_stays_the_text_that_was_written(language: str) -> None:
    config = override_config(read(""), [f"data.source_language={language}"])
    assert config.data.source_language == language.strip("'\"")


def test_attention_is_one_variant_or_one_per_site() -> None:
    assert read("model: {attention: entmax15}").model.attention == "entmax15"
    sites = read("model:\n  attention:\n    encoder: softmax\n    decoder: rela-i\n    cross: rela-g\n").model.attention
    assert sites == AttentionBySite(encoder="softmax", decoder="rela-i", cross="rela-g")


def test_a_byte_order_mark_and_windows_line_ends_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_config(file) == read("")


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  atention: softmax\n", "c.yaml:7: model.atention: unknown key; did you mean 'attention'?"),
        ("modle:\n  num_heads: 8\n", "c.yaml:6: modle: unknown key; did you mean 'model'?"),
        ("model.num_heads: 8\n", "c.yaml:6: model.num_heads: unknown key; in a file write model: {num_heads: …}"),
        ("num_heads: 8\n", "c.yaml:6: num_heads: unknown key; did you mean 'model.num_heads'?"),
        ("training: {dropout: 0.1}\n", "c.yaml:6: training.dropout: unknown key; did you mean 'model.dropout'?"),
        ("extends: a.yaml\n", "c.yaml:6: extends: unknown key"),
        ("model: {attention: sofmax}\n", "c.yaml:6: model.attention: found the text 'sofmax'; did you mean 'softmax'?"),
        ("model: {norm_order: 3}\n", "c.yaml:6: model.norm_order: found 3; accepted: post, pre"),
        ("model: {norm_order: [post]}\n", "c.yaml:6: model.norm_order: found a list; accepted: post, pre"),
        ("model: {num_heads: eight}\n", "c.yaml:6: model.num_heads: expected a whole number, found the text 'eight'"),
        ("model: {num_heads: 8.0}\n", "c.yaml:6: model.num_heads: expected a whole number, found 8.0"),
        ("model: {num_heads: 1e1}\n", "c.yaml:6: model.num_heads: expected a whole number, found 1e1"),
        ("model: {num_heads: '8'}\n", "c.yaml:6: model.num_heads: expected a whole number, found the text '8'"),
        ("model: {num_heads: true}\n", "c.yaml:6: model.num_heads: expected a whole number, found true"),
        ("model: {num_heads: 010}\n", "c.yaml:6: model.num_heads: expected a whole number, found 010"),
        ("model: {num_heads: }\n", "c.yaml:6: model.num_heads: expected a whole number, found nothing"),
        ("model: {num_heads: {a: 1}}\n", "c.yaml:6: model.num_heads: expected a whole number, found a mapping"),
        ("early_stopping: true\n", "did you mean 'decoding.early_stopping' or 'training.patience'?"),
        ("training: {beam_sise: 4}\n", "training.beam_sise: unknown key; did you mean 'decoding.beam_size'?"),
        ("training: {max_hours: inf}\n", "training.max_hours: expected a number, found the text 'inf'"),
        ("training: {initialize_from: $HOME/x}\n", "training.initialize_from: found '$HOME/x'; accepted: a path; only"),
        ("training: {initialize_from: ~nobody-at-all/x}\n", "training.initialize_from: found '~nobody-at-all/x'"),
        ("model: {num_heads: 0}\n", "c.yaml:6: model.num_heads: found 0; accepted: 1 to 1024"),
        ("training: {log_every: 99999999999999999999}\n", "accepted: 1 to 9223372036854775807"),
        ("model: {dropout: 1}\n", "c.yaml:6: model.dropout: found 1.0; accepted: 0.0 to 0.9"),
        ("model: {dropout: .nan}\n", "c.yaml:6: model.dropout: expected a number, found the text '.nan'"),
        ("training: {max_grad_norm: 1e999}\n", "c.yaml:6: training.max_grad_norm: expected a number"),
        ("model: {embedding_bias: 1}\n", "c.yaml:6: model.embedding_bias: expected true or false, found 1"),
        ("model: {embedding_bias: 'true'}\n", "model.embedding_bias: expected true or false, found the text 'true'"),
        ("training: {initialize_from: 12}\n", "c.yaml:6: training.initialize_from: expected text in quotes, found 12"),
        ("training: {initialize_from: }\n", "c.yaml:6: training.initialize_from: expected text, found nothing"),
        ("model: 3\n", "c.yaml:6: model: expected a section of keys, found 3"),
        (
            "training: {max_batch_tokens: avto}\n",
            "c.yaml:6: training.max_batch_tokens: expected a whole number or auto, found the text 'avto'",
        ),
        (
            "model: {attention: {encoder: softmax}}\n",
            "missing required keys: model.attention.decoder, model.attention.cross",
        ),
        ("model: {attention: {enc: softmax}}\n", "model.attention.enc: unknown key; accepted: cross, decoder, encoder"),
        (
            "training: {batch_tokens: 8}\n",
            "training.batch_tokens: unknown key; did you mean 'max_batch_tokens' or 'decoding.batch_tokens'?",
        ),
        ("model: {dimension: 8}\n", "model.dimension: unknown key; docs/configuration.md lists what is accepted"),
        ("training: {accumulate: 8}\n", "training.accumulate: unknown key; docs/configuration.md lists"),
        ("decoding: {extra_length: 8}\n", "extra_length: unknown key; accepted: batch_tokens, beam_size, "),
        ("model: {tied_embeddings: true}\n", "model.tied_embeddings: found true; accepted: all, none, target"),
        ("training: {max_updates: 5e2}\n", "max_updates: expected a whole number, found 5e2; write 500"),
        ("training: {max_updates: 5e-1}\n", "max_updates: expected a whole number, found 5e-1"),
        ("model: {num_heads: 8}\nmodel: {}\n", "c.yaml:7: model: given twice, first at c.yaml:6"),
        ("model:\n  num_heads: 8\n  num_heads: 4\n", "c.yaml:8: num_heads: given twice, first at c.yaml:7"),
        ("model: &m {}\n", "c.yaml:6: malformed YAML: anchors (&) and aliases (*) are not accepted"),
        ("model: *m\n", "c.yaml:6: malformed YAML: anchors (&) and aliases (*) are not accepted"),
        ("model: !!python/object:os.system {}\n", "c.yaml:6: malformed YAML: the tag "),
        ("model: [\n", "malformed YAML"),
        ("model: a: b\n", "c.yaml:6: malformed YAML: mapping values are not allowed here"),
        ("\tmodel: 3\n", "c.yaml:6: malformed YAML: found character '\\t' that cannot start any token"),
        ("? [a]\n: 3\n", "c.yaml:6: a key must be a plain word"),
        ("# \x07\n", "c.yaml:6: malformed YAML: the character U+0007 is not allowed"),
        ("---\nrun_dir: y\n", "malformed YAML"),
        ('"a\\nb": 3\n', "c.yaml:6: a\\nb: unknown key"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, message: str) -> None:
    assert message in refusal(text)


def test_nesting_without_end_is_refused() -> None:
    assert "nested too deeply" in refusal("model: " + "[" * 5000)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", "keys: run_dir, data.task, data.source_language, data.target_language"),
        ("run_dir: x\ndata:\n", "keys: data.task, data.source_language, data.target_language"),
        ("run_dir: x\ndata: {task: t, source_language: en}", "key: data.target_language"),
    ],
)
def test_all_missing_keys_are_named(text: str, missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_yaml(text, "c.yaml")
    assert str(caught.value) == f"c.yaml: missing required {missing}"


@pytest.mark.parametrize("text", ["[1, 2]", "word", "3"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^c\.yaml:1: expected 'key: value' lines"):
        config_from_yaml(text, "c.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_heads=3", "model.num_heads: found 3, which does not divide model.d_model (512)"),
        ("data.target_language=en", "data.target_language: found 'en', as in data.source_language"),
        ("run_dir=", "run_dir: must not be empty"),
        ("training.lr_schedule=constant", "training.learning_rate: found 1.0, a factor for the schedule noam"),
        ("training.validation_decode_sentences=0", "training.checkpoint_metric: 'bleu' needs translations"),
        ("evaluation.metrics=[ter, bleu, ter]", "evaluation.metrics: found 'ter' more than once"),
        ("evaluation.metrics=[chrf, blue]", "evaluation.metrics[1]: found the text 'blue'; did you mean 'bleu'?"),
        (
            "evaluation.metrics=bleu,ter",
            "expected a list with at least one entry, found the text 'bleu,ter'; write [bl",
        ),
        ("evaluation.metrics=[]", "expected a list with at least one entry, found an empty list"),
        ("training.checkpoint_metric=trr", "found the text 'trr'; did you mean 'ter'?"),
        ("model={tied_embeddings: all, num_heads: 1}", ""),
    ],
)
def test_rules_between_keys(override: str, message: str) -> None:
    config = override_config(read(""), ["model.tied_embeddings=all"])
    if not message:
        override, message = (
            "data.joint_vocabulary=false",
            "model.tied_embeddings: 'all' needs data.joint_vocabulary: true",
        )
    with pytest.raises(ConfigError) as caught:
        override_config(config, [override])
    assert message in str(caught.value)


# Files


def test_extends_merges_key_by_key(tmp_path: Path) -> None:
    write(
        tmp_path, "top.yaml", "model: {num_heads: 4, dropout: 0.3}\ndata: {source_language: en, target_language: de}\n"
    )
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", "middle.yaml", "extends: ../top.yaml\nmodel: {dropout: 0.2}\ndata: {task: demo}\n")
    file = write(tmp_path / "inner", "c.yaml", "extends: middle.yaml\nrun_dir: runs/c\ndata: {target_language: fr}\n")
    config = load_config(file)
    assert (config.model.num_heads, config.model.dropout) == (4, 0.2)
    assert (config.data.source_language, config.data.target_language, config.run_dir) == ("en", "fr", "runs/c")


def test_a_section_left_empty_keeps_what_it_extends(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base.yaml",
        "model: {num_heads: 4}\nrun_dir: x\ndata: {task: demo, source_language: en, target_language: de}\n",
    )
    config = load_config(write(tmp_path, "c.yaml", "extends: base.yaml\nmodel:\n  # num_heads: 2\n"))
    assert config.model.num_heads == 4


def test_a_mistake_in_an_extended_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "model:\n  num_hedas: 4\n")
    file = write(tmp_path, "c.yaml", "extends: base.yaml\n" + MINIMAL)
    with pytest.raises(ConfigError, match=r"/base\.yaml:2: model\.num_hedas: unknown key; did you mean 'num_heads'\?"):
        load_config(file)


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    file = write(tmp_path, "b.yaml", "extends: ./a.yaml\n")
    with pytest.raises(ConfigError, match=r"/a\.yaml:1: extends: .*/b\.yaml extends itself"):
        load_config(file)


@pytest.mark.parametrize("value", ["[a, b]", "", "3", '"\\0"'])
def test_extends_needs_a_file_name(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:1: extends: expected the name of a YAML file"):
        load_config(write(tmp_path, "c.yaml", f"extends: {value}\n" + MINIMAL))


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "demo.yaml", MINIMAL)
    with pytest.raises(ConfigError, match=r"/demmo\.yaml: no such file; did you mean '.*/demo\.yaml'\?"):
        load_config(tmp_path / "demmo.yaml")
    file = write(tmp_path, "c.yaml", "extends: bsae.yaml\n")
    with pytest.raises(ConfigError, match=r"/c\.yaml:1: extends: .*/bsae\.yaml: no such file"):
        load_config(file)


def test_a_directory_bad_utf8_and_a_bad_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(tmp_path)
    for data, message in (
        (MINIMAL.encode("utf-16"), r"^/.*/c\.yaml: the text is UTF-16; accepted: UTF-8"),
        (MINIMAL.encode("utf-16-le"), r"^/.*/c\.yaml: the text is UTF-16LE; accepted: UTF-8"),
        (gzip.compress(MINIMAL.encode()), r"^/.*/c\.yaml: compressed with gzip; accepted: plain text$"),
    ):
        (tmp_path / "c.yaml").write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_bytes(b"run_dir: x\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2: invalid UTF-8 \(byte 0xe9\)"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(UserError, match=r"found 'a\\x00b'; accepted: a path"):
        load_config("a\0b")
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load_config("a" * 300)
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_config(tmp_path / "c.yaml" / "d.yaml")


def test_a_task_file_is_relative_to_the_configuration_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "a", "base.yaml", "data: {task: ../tasks/mine.yaml}\n")
    write(
        tmp_path / "b",
        "c.yaml",
        "extends: ../a/base.yaml\nrun_dir: x\ndata: {source_language: en, target_language: de}\n",
    )
    config = load_config("b/c.yaml")
    assert config.data.task == str(tmp_path / "tasks/mine.yaml")
    assert load_config("b/c.yaml", ["data.task=here.yaml"]).data.task == str(tmp_path / "here.yaml")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for written, found in (("../tasks/mine.yml", "tasks/mine.yml"), ("~/mine.yaml", "home/mine.yaml")):
        write(tmp_path / "b", "d.yaml", f"extends: c.yaml\ndata: {{task: {written}}}\n")
        assert load_config("b/d.yaml").data.task == str(tmp_path / found)
    assert load_config("b/c.yaml", ["data.task=demo"]).data.task == "demo"
    assert config_from_yaml(config_to_yaml(config)) == config


# Overrides


def test_the_last_override_wins_and_mappings_merge() -> None:
    config = override_config(
        read(""), ["model.num_heads=2", "model={dropout: 0, norm_order: pre}", "model.num_heads=4"]
    )
    assert (config.model.num_heads, config.model.dropout, config.model.norm_order) == (4, 0.0, "pre")
    assert override_config(config, ["training.initialize_from=runs/y"]).training.initialize_from == "runs/y"
    assert override_config(config, ["training.initialize_from="]).training.initialize_from == ""
    assert override_config(config, ["run_dir=runs/a=b"]).run_dir == "runs/a=b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.atention=softmax", "model.atention: unknown key; did you mean 'attention'?"),
        ("batch_tokens=8", "did you mean 'decoding.batch_tokens'?"),
        ("model.num_heads.x=8", "model.num_heads: expected a whole number, found a mapping"),
        ("model.num_heads=two", "model.num_heads: expected a whole number, found the text 'two'"),
        ("model.num_heads=", "model.num_heads: expected a whole number, found the text ''"),
        ("model.num_heads=[", "malformed YAML"),
        ("model..num_heads=3", "model.: unknown key"),
        ("model.num_heads", "expected section.key=value"),
        ("configs/demo.yaml", "a configuration file is given by --config"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override_config(read(""), [override])
    assert str(caught.value).startswith(f"override '{override}': ")
    assert message in str(caught.value)


def test_an_override_is_checked_against_the_file_it_changes(tmp_path: Path) -> None:
    file = write(tmp_path, "c.yaml", MINIMAL + "model: {d_model: 96}\n")
    with pytest.raises(
        ConfigError, match=r"^override 'model\.num_heads=64': model\.num_heads: found 64, which does not divide"
    ):
        load_config(file, ["model.num_heads=64"])


# Names of shipped configurations


def test_a_configuration_that_comes_with_the_package_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("demo") == load_config(CONFIGS / "demo.yaml")
    mine = write(tmp_path, "mine.yaml", "extends: small\n" + MINIMAL)
    assert load_config(mine) == load_config(write(tmp_path, "path.yaml", f"extends: {CONFIGS}/small.yaml\n" + MINIMAL))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smal", "unknown configuration 'smal'; did you mean 'small'?"),
        ("mine", "unknown configuration 'mine'; for the file write mine.yaml"),
        ("plain", "unknown configuration 'plain'; for the file write ./plain"),
        ("nothing-like-it", "accepted: base, base-prenorm, big, big-prenorm, demo, "),
    ],
)
def test_an_unknown_name_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mine.yaml", MINIMAL)
    write(tmp_path, "plain", MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert hint in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "other.yaml", f"extends: {name}\n" + MINIMAL))
    assert str(caught.value).startswith(f"{tmp_path}/other.yaml:1: extends: unknown configuration '{name}'; ")


# Differences, and the shipped files


def test_differences_name_the_path_and_both_values() -> None:
    old = read("")
    new = override_config(
        old,
        ["model.num_heads=4", "run_dir=runs/y", "model.attention={encoder: softmax, decoder: softmax, cross: rela-g}"],
    )
    sites = AttentionBySite(encoder="softmax", decoder="softmax", cross="rela-g")
    assert diff_configs(old, new) == [
        ConfigChange(path="run_dir", old="runs/x", new="runs/y"),
        ConfigChange(path="model.attention", old="rela-g", new=sites),
        ConfigChange(path="model.num_heads", old=8, new=4),
    ]
    newer = override_config(new, ["model.attention.cross=rela-i"])
    assert diff_configs(new, newer) == [ConfigChange(path="model.attention.cross", old="rela-g", new="rela-i")]
    assert diff_configs(new, new) == []


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_every_shipped_configuration_is_valid(file: Path, tmp_path: Path) -> None:
    text = f"extends: {file}\n"
    if "\nrun_dir: " not in file.read_text(encoding="utf-8"):  # a model to extend, without task and run
        text += "run_dir: r\ndata: {task: t, source_language: a, target_language: b}\n"
    (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "experiment.yaml")
    assert config_from_yaml(config_to_yaml(config)) == config


def test_base_spells_out_every_default() -> None:
    given = ("run_dir", "data.task", "data.source_language", "data.target_language")
    text = (CONFIGS / "base.yaml").read_text(encoding="utf-8")
    base = config_from_yaml(
        text.replace("\ndata:\n", "\nrun_dir: r\ndata:\n  task: t\n  source_language: a\n  target_language: b\n")
    )
    assert base == config_from_yaml("run_dir: r\ndata: {task: t, source_language: a, target_language: b}")
    for path in key_paths(Config):
        if path not in given:
            indent = "  " * path.count(".")
            assert f"\n{indent}{path.split('.')[-1]}: " in text, f"{path} is not in base.yaml"


def test_every_field_is_frozen_and_keyword_only() -> None:
    for cls in (Config, DataConfig, TrainingConfig):
        assert all(field.kw_only for field in dataclasses.fields(cls))
    with pytest.raises(dataclasses.FrozenInstanceError):
        read("").run_dir = "y"  # type: ignore[misc]


def test_reading_settings_loads_nothing_heavy() -> None:
    code = "import sys, nmt_rela.config.loader; print({'torch', 'numpy', 'sentencepiece'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
