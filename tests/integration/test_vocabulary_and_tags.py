"""Existing sub-word models, and tags before the source sentences of a text."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_text import decoded, own_task, sentences, settings, tree, write

from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.pipeline import load_prepared, prepare
from nmt_rela.utils.errors import ConfigError, DataError
from nmt_rela.utils.text import read_lines


def test_a_run_a_directory_and_a_model_file_are_vocabularies(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    first = prepare(settings(task, tmp_path / "first"))
    models = TokenizerPair.load(first.tokenizer)
    models.save(tmp_path / "run/tokenizer")
    new = [f"DAS {line.upper()}" for line in sentences(300)]
    write(tmp_path / "text/train.en", new)
    for path in (tmp_path / "run", first.tokenizer, tmp_path / "run/tokenizer/joint.model"):
        data = settings(task, tmp_path / path.name, vocabulary=str(path), vocabulary_size=40, subword_model="unigram")
        found = prepare(data)
        assert TokenizerPair.load(found.tokenizer).fingerprint == models.fingerprint
        assert decoded(found)[3][1] == new[3]


def test_prepared_data_outlives_the_vocabulary_that_it_was_made_with(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    first = prepare(settings(task, tmp_path / "first"))
    TokenizerPair.load(first.tokenizer).save(tmp_path / "models")
    data = settings(task, tmp_path / "second", vocabulary=str(tmp_path / "models"))
    second = prepare(data)
    other = prepare(settings(task, tmp_path / "first", vocabulary_size=60))
    (tmp_path / "models/joint.model").write_bytes((other.tokenizer / "joint.model").read_bytes())
    changed = prepare(data)
    assert changed.tokenizer != second.tokenizer, "a changed model is noticed"
    (tmp_path / "models/joint.model").unlink()
    assert prepare(data) == load_prepared(data) == changed


def test_a_vocabulary_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    first = prepare(settings(task, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"data\.joint_vocabulary: found false, but .* has one vocabulary for both"):
        prepare(settings(task, tmp_path / "out", vocabulary=str(first.tokenizer), joint_vocabulary=False))
    with pytest.raises(
        ConfigError, match=r"data\.vocabulary: found .*nowhere', where no sub-word models are; accepted"
    ):
        prepare(settings(task, tmp_path / "out", vocabulary=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"mine\.yaml: not a SentencePiece model"):
        prepare(settings(task, tmp_path / "out", vocabulary=str(task)))
    task.write_text(task.read_text("utf-8").replace("- name: train", "- name: train\n    tag: <bt>"), "utf-8")
    with pytest.raises(ConfigError, match=r"data\.vocabulary: .* does not have the tag <bt> of the task"):
        prepare(settings(task, tmp_path / "out", vocabulary=str(first.tokenizer)))
    with pytest.raises(ConfigError, match=r"data\.weights\.trian: no training source of .*; did you mean 'train'"):
        prepare(settings(task, tmp_path / "out", weights={"trian": 2.0}))


@pytest.mark.parametrize("source", ["de", "en"])
def test_tags_stand_before_the_source_and_are_never_split(tmp_path: Path, source: str) -> None:
    task = own_task(tmp_path)
    text = task.read_text("utf-8").replace("- name: train", "- name: train\n    tag: <tagged-bt>")
    task.write_text(f"tag: <2x>\n{text}", "utf-8")
    languages = {"source_language": source, "target_language": "en" if source == "de" else "de"}
    prepared = prepare(settings(task, tmp_path / "out", subword_model="unigram", **languages))
    pairs = decoded(prepared)
    assert all(left.startswith("<tagged-bt> ") and "<" not in right for left, right in pairs)
    assert all(line.startswith("<2x> ") for line in read_lines(prepared.tests[0].source))
    assert all(line.startswith("<2x> ") for line in read_lines(prepared.dev.source))
    assert not any("<" in line for line in read_lines(prepared.dev.target))
    tokenizer = TokenizerPair.load(prepared.tokenizer).source
    assert tokenizer.tags.keys() == {"<tagged-bt>", "<2x>"}
    assert tokenizer.encode(["<2x> der hund"])[0].count(tokenizer.tags["<2x>"]) == 1
    before = tree(tmp_path / "out")
    task.write_text(task.read_text("utf-8").replace("<2x>", "<3x>"), "utf-8")
    changed = prepare(settings(task, tmp_path / "out", subword_model="unigram", **languages))
    assert tree(tmp_path / "out").items() > before.items()
    assert changed.tokenizer != prepared.tokenizer


@pytest.mark.parametrize("tag", ["bt", "<a b>", "<>", "<s>", "<unk>"])
def test_a_tag_is_a_word_in_angle_brackets(tmp_path: Path, tag: str) -> None:
    task = own_task(tmp_path)
    task.write_text(f"tag: '{tag}'\n{task.read_text('utf-8')}", "utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml:1: tag: found .*; accepted: letters, .* such as <2de>"):
        prepare(settings(task, tmp_path / "out"))


def test_a_tagged_set_has_no_gold_alignments(tmp_path: Path) -> None:
    task = own_task(tmp_path, extra="    tag: <2x>\n    alignments: {file: a, order: [de, en]}\n")
    with pytest.raises(ConfigError, match=r"tests\[0\]\.alignments: found beside the tag <2x>"):
        prepare(settings(task, tmp_path / "out"))
