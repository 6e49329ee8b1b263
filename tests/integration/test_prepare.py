"""From a task file to batches, by the command and by the function: a user's own text, and the demo corpus."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from file_server import Answer, FileServer
from own_text import decoded, own_task, sentences, settings, tree, write
from packing import packed

from nmt_rela.commands import prepare as command
from nmt_rela.config.schema import DataConfig
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.normalization import normalization_for
from nmt_rela.data.tokenizer import EOS, TokenizerPair
from nmt_rela.preparation.cleaning_stats import format_stats
from nmt_rela.preparation.pipeline import load_prepared, prepare
from nmt_rela.preparation.tokenizer_training import suitable_size
from nmt_rela.utils.errors import ConfigError, DataError
from nmt_rela.utils.text import read_lines


def test_own_text_becomes_pairs_of_ids(tmp_path: Path) -> None:
    prepared = prepare(settings(own_task(tmp_path), tmp_path / "out"))
    expected = sentences(300)
    assert decoded(prepared) == [(line, line.upper()) for line in dict.fromkeys(expected)]
    assert prepared.counts["sources"]["train"] == {
        "read": 300,
        "kept": 300,
        "dropped": {},
        "repaired": {},
        "truncated": 0,
    }
    assert (prepared.counts["dev"], prepared.counts["tests"]) == (7, {"test": 5})
    assert list(read_lines(prepared.dev.source)) == sentences(7, mark="dev ")
    assert list(read_lines(prepared.tests[0].target)) == [line.upper() for line in sentences(5, mark="test ")]
    assert (prepared.tests[0].bleu_tokenizer, prepared.tests[0].gold_alignments) == ("13a", None)
    dev = ParallelDataset(prepared.dev_binary)
    assert len(dev) == 7
    assert all(dev.sources[index][-1] == EOS for index in range(7))
    assert load_prepared(settings(tmp_path / "mine.yaml", tmp_path / "out")) == prepared


def test_a_second_run_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = settings(own_task(tmp_path), tmp_path / "out")
    first = prepare(data)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with caplog.at_level(logging.INFO):
        caplog.clear()
        assert prepare(data) == first
    assert caplog.text == ""
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def test_a_damaged_summary_is_written_again(tmp_path: Path) -> None:
    data = settings(own_task(tmp_path), tmp_path / "out")
    first = prepare(data)
    (summary,) = (tmp_path / "out").rglob("prepared-*.json")
    summary.write_bytes(b'{"stages": ')
    assert prepare(data) == first == load_prepared(data)


TOKENIZERS = {"tokenizers", "train", "dev"}
TEXT = {"text", "overlap", *TOKENIZERS}
#: What each option changes, and the stages that are made again for it.
CHANGES: list[tuple[dict[str, object], set[str]]] = [
    ({"max_length": 15}, {"train"}),
    ({"on_overlength": "truncate", "max_length": 8}, {"train"}),
    ({"vocabulary_size": 100}, TOKENIZERS),
    ({"joint_vocabulary": False}, TOKENIZERS),
    ({"subword_model": "unigram"}, TOKENIZERS),
    ({"tokenizer_sample_size": 50}, TOKENIZERS),
    ({"character_coverage": 0.98}, TOKENIZERS),
    ({"max_length_ratio": 5.0}, TEXT),
    ({"max_pairs_per_source": 100}, TEXT),
    ({"drop_duplicates": False}, TEXT),
    ({"drop_untranslated": False}, TEXT),
    ({"romanian_diacritics": "cedilla"}, {"sets", *TEXT}),
    ({"normalization": "identity"}, {"sets", *TEXT}),
    ({"weights": {"train": 2.0}}, set()),
    ({"temperature": 2.0}, set()),
    ({"subword_regularization": 0.1}, set()),
]


def test_every_option_has_its_stages() -> None:
    options = {name for change, _ in CHANGES for name in change} | {
        "task",
        "data_dir",
        "source_language",
        "target_language",
        "vocabulary",  # test_vocabulary_and_tags.py
    }
    assert options == {field.name for field in dataclasses.fields(DataConfig)}


@pytest.mark.parametrize(("change", "redone"), CHANGES, ids=lambda value: "+".join(sorted(value)))
def test_only_what_depends_on_a_change_is_redone(tmp_path: Path, change: dict[str, object], redone: set[str]) -> None:
    task = own_task(tmp_path)
    prepare(settings(task, tmp_path / "out"))
    before = tree(tmp_path / "out")
    prepared = prepare(settings(task, tmp_path / "out", **change))
    after = tree(tmp_path / "out")
    assert {name: after[name] for name in before} == before, "what other settings made stays"
    new = {name.split("/")[1].split("-")[0] for name in after.keys() - before.keys()} - {"prepared"}
    assert new == redone
    other = prepare(settings(task, tmp_path / "fresh", **change))
    assert ParallelDataset(prepared.train).fingerprint == ParallelDataset(other.train).fingerprint


def test_changed_text_is_noticed(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    first = prepare(settings(task, tmp_path / "out"))
    write(tmp_path / "text/test.en", [line.lower() for line in sentences(5)])
    second = prepare(settings(task, tmp_path / "out"))
    assert list(read_lines(second.tests[0].target)) == sentences(5)
    assert second.train == first.train
    own_task(tmp_path, pairs=310)
    assert prepare(settings(task, tmp_path / "out")).counts["total"]["read"] == 310


def test_long_pairs_are_dropped_or_cut_and_counted(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    write(tmp_path / "text/train.en", [*(line.upper() for line in sentences(299)), "HUND " * 60])
    write(tmp_path / "text/train.de.gz", [*sentences(299), "hund " * 50])
    dropped = prepare(settings(task, tmp_path / "out", max_length=40))
    assert dropped.counts["total"]["dropped"] == {"overlength": 1}
    assert len(ParallelDataset(dropped.train)) == 299
    cut = prepare(settings(task, tmp_path / "out", max_length=40, on_overlength="truncate"))
    assert (cut.counts["total"]["dropped"], cut.counts["total"]["truncated"]) == ({}, 1)
    corpus = ParallelDataset(cut.train)
    assert (len(corpus), corpus.source_lengths.max(), corpus.target_lengths.max()) == (300, 40, 40)
    with pytest.raises(DataError, match=r"data\.max_length: every training pair is longer than 2"):
        prepare(settings(task, tmp_path / "out", max_length=2))


def test_both_directions_and_both_vocabularies(tmp_path: Path) -> None:
    links = "\n".join(["0-1 2p3"] * 5)
    extra = "    alignments: {file: test.align, order: [de, en]}\n"
    task = own_task(tmp_path, extra=extra)
    (tmp_path / "test.align").write_text(links + "\n", "utf-8")
    there = prepare(
        settings(task, tmp_path / "out", joint_vocabulary=False, subword_model="unigram", vocabulary_size=60)
    )
    back = prepare(settings(task, tmp_path / "out", source_language="en", target_language="de"))
    assert decoded(back) == [(right, left) for left, right in decoded(there)]
    assert not TokenizerPair.load(there.tokenizer).is_shared
    assert TokenizerPair.load(back.tokenizer).is_shared
    assert there.tests[0].gold_alignments is not None
    assert back.tests[0].gold_alignments is not None
    assert there.tests[0].gold_alignments.read_text() == links + "\n"
    assert back.tests[0].gold_alignments.read_text() == "\n".join(["1-0 3p2"] * 5) + "\n"
    (tmp_path / "test.align").write_text("0-1\n", "utf-8")
    with pytest.raises(DataError, match=r"test\.align: 1 lines of links for 5 pairs"):
        prepare(settings(task, tmp_path / "other"))
    (tmp_path / "test.align").write_text("0-1\n0:1\n", "utf-8")
    with pytest.raises(DataError, match=r"test\.align:2: found .0:1.; accepted: i-j"):
        prepare(settings(task, tmp_path / "other"))


def test_a_vocabulary_larger_than_the_corpus_supports_is_lowered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = own_task(tmp_path)
    for subword in ("bpe", "unigram"):
        caplog.clear()
        prepared = prepare(settings(task, tmp_path / "out", vocabulary_size=50_000, subword_model=subword))
        assert 20 < prepared.counts["vocabulary"]["source"] < 5000
        assert "sub-words, not data.vocabulary_size=50000" in caplog.text
        assert [*format_stats(prepared.counts)][-1].endswith(" sub-words (data.vocabulary_size: 50,000)")
    with pytest.raises(ConfigError, match=r"data\.vocabulary_size: found 12; the corpus has \d+ characters"):
        prepare(settings(task, tmp_path / "out", vocabulary_size=12))


def test_an_automatic_vocabulary_follows_the_corpus_and_a_too_large_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [suitable_size(pairs) for pairs in (10, 42_000, 5_000_000)] == [1_000, 4_200, 32_000]
    task = own_task(tmp_path)
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 1_500)))  # more characters than 1,000 sub-words could hold
    write(tmp_path / "text/train.en", [f"{line} {letters[5 * n : 5 * n + 5]}" for n, line in enumerate(sentences(300))])
    prepared = prepare(settings(task, tmp_path / "out", vocabulary_size="auto"))
    assert 1_500 < prepared.counts["vocabulary"]["source"] <= 2_600
    assert "sub-words" not in caplog.text
    prepare(settings(task, tmp_path / "out", vocabulary_size=16_000))
    assert "16,000 sub-words are too many for 300 training pairs to teach; 'auto' would be about 1,000" in caplog.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: write(root / "text/dev.en", ["one"]), r"source 'dev': de has 7 lines and en 1; accepted"),
        (
            lambda root: (root / "text/train.en").unlink(),
            r"^/.*text/train\.en: no such file; paths start from",
        ),
        (
            lambda root: ((root / "text/train.en").unlink(), (root / "text/train.en").mkdir()),
            r"^/.*text/train\.en: is a directory; accepted: a file",
        ),
        (
            lambda root: ((root / "text/train.en").unlink(), os.mkfifo(root / "text/train.en")),
            r"^/.*text/train\.en: is no regular file; accepted: a file",
        ),
        (
            lambda root: (root / "text/dev.en").write_bytes(b"\x28\xb5\x2f\xfd"),
            r"^source 'dev': /.*text/dev\.en: compressed with zstd; accepted: plain text, \.gz",
        ),
        (lambda root: (root / "text/test.de").write_bytes(b"\xff\n" * 5), r"source 'test': line 1 of de is invalid"),
        (lambda root: write(root / "text/test.en", [*"abc", "é" * (1 << 20), "e"]), r"line 4 of en is over 1,048,576"),
        (lambda root: (root / "text/train.de.gz").write_bytes(b"x"), r"source 'train': .*train\.de\.gz.* damaged"),
        (
            lambda root: write(root / "text/train.en", [""] * 300),
            r"no training pair is left after cleaning: .*empty 300",
        ),
    ],
)
def test_bad_text_is_one_error_line_and_leaves_no_files(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    task = own_task(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        prepare(settings(task, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(DataError, match="not prepared; run nmt-prepare"):
        load_prepared(settings(task, tmp_path / "out"))


@pytest.mark.parametrize(("name", "files", "found"), [("train", "train.de.gz", 300), ("test", "test.de", 5)])
def test_another_number_of_pairs_than_stated_is_an_error(tmp_path: Path, name: str, files: str, found: int) -> None:
    task = own_task(tmp_path)
    key = f"    files: {{de: text/{files}"
    assert key in task.read_text("utf-8")
    task.write_text(task.read_text("utf-8").replace(key, f"    lines: 9\n{key}"), "utf-8")
    with pytest.raises(DataError, match=rf"source '{name}': found {found} pairs; accepted: 9 \('lines' of the task"):
        prepare(settings(task, tmp_path / "out"))


def test_bad_settings_are_one_line(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    with pytest.raises(
        ConfigError, match=r"data\.source_language: the task 'mine' has no language 'dd'; accepted: de, en"
    ):
        prepare(settings(task, tmp_path, source_language="dd"))
    with pytest.raises(ConfigError, match=r"data\.target_language: found 'de', which is the source"):
        prepare(settings(task, tmp_path, target_language="de"))
    task.write_text(task.read_text("utf-8").replace("languages: [de, en]", "languages: [de, en, fr]"), "utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml: train: found text of de-en; accepted: a source with both"):
        prepare(settings(task, tmp_path, target_language="fr"))
    with pytest.raises(ConfigError, match=r"data\.romanian_diacritics: 'remove' would train"):
        prepare(
            settings("wmt16-ro-en", tmp_path, source_language="en", target_language="ro", romanian_diacritics="remove")
        )


@pytest.mark.parametrize("chinese", ["zh", "zho_Hans", "cmn", "yue-Hant"])
def test_every_code_of_a_language_leads_to_the_same_data(tmp_path: Path, chinese: str) -> None:
    task = own_task(tmp_path)
    task.write_text(task.read_text("utf-8").replace("de: text", f"{chinese}: text").replace("[de,", f"[{chinese},"))
    write(tmp_path / "text/train.de.gz", [f"我们去了巴黎和柏林看朋友{number}" for number in range(300)])
    prepared = prepare(
        settings(task, tmp_path / "out", source_language="en", target_language=chinese, max_length_ratio=3.0)
    )
    assert (prepared.counts["total"]["dropped"], prepared.tests[0].bleu_tokenizer) == ({}, "zh")


@pytest.mark.parametrize(
    ("code", "hint"), [("jp", "did you mean ja?"), ("chinese", "did you mean zh?"), ("q", "such as en or eng")]
)
def test_a_code_that_is_no_language_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, hint: str
) -> None:
    task = own_task(tmp_path)
    task.write_text(task.read_text("utf-8").replace("de: text", f"{code}: text").replace("[de,", f"[{code},"))
    with caplog.at_level(logging.WARNING):
        prepare(settings(task, tmp_path / "out", source_language="en", target_language=code))
    assert f"'{code}' is no code of ISO 639 ({hint})" in caplog.text


def test_a_tokenizer_of_bleu_is_checked_when_the_task_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = own_task(tmp_path, extra="bleu_tokenizers: {en: 13b}\n")
    with pytest.raises(
        ConfigError, match=r"mine\.yaml:\d+: bleu_tokenizers\.en: unknown tokenizer '13b'; did you mean"
    ):
        prepare(settings(task, tmp_path / "out"))
    task = own_task(tmp_path, extra="bleu_tokenizers: {en: ja-mecab}\n")
    monkeypatch.setattr("nmt_rela.metrics.translation.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'ja-mecab' is not installed \(pip install 'sacrebleu\[ja\]'\); accepted"):
        prepare(settings(task, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rows_with_other_fields_are_dropped_from_training_text_and_an_error_elsewhere(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    for name, files in (
        ("train", "de: text/train.de.gz, en: text/train.en"),
        ("dev", "de: text/dev.de, en: text/dev.en"),
    ):
        write(tmp_path / f"{name}.tsv", [*(f"{line}\t{line.upper()}" for line in sentences(99)), "a\tb\tc", "d"])
        columns = f"format: tsv\n    file: {name}.tsv\n    columns: [de, en]"
        task.write_text(task.read_text("utf-8").replace(f"files: {{{files}}}", columns), "utf-8")
    with pytest.raises(DataError, match="source 'dev': line 100 has too few or too many fields; accepted: the 2 that"):
        prepare(settings(task, tmp_path / "out"))
    write(tmp_path / "dev.tsv", ["a\tb"])
    assert prepare(settings(task, tmp_path / "out")).counts["total"]["dropped"] == {"fields": 2}


def test_a_source_that_loses_many_pairs_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = own_task(tmp_path)
    (tmp_path / "text/train.en").write_bytes(
        "".join(f"{'é' if n % 2 else 'e'} {line}\n" for n, line in enumerate(sentences(300)))
        .replace("ä", "a")
        .encode("latin-1")
    )
    prepare(settings(task, tmp_path / "out"))
    assert "source 'train': 50 % of 300 pairs are dropped: undecodable 150 (docs/data.md" in caplog.text
    assert "(try: iconv -f ISO-8859-1, or what it is, -t UTF-8)" in caplog.text
    caplog.clear()
    own_task(tmp_path)
    prepare(settings(task, tmp_path / "other"))
    assert not [record for record in caplog.records if "are dropped" in record.message]


def test_sets_that_stand_in_the_training_text_are_counted_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = own_task(tmp_path)
    assert prepare(settings(task, tmp_path / "out")).counts["overlap"] == {}
    assert "also stand" not in caplog.text
    for language, upper in (("de", str), ("en", str.upper)):
        seen = [f"test {sentences(1)[0]}", "nur hier", *(f"  {line}&nbsp;" for line in sentences(3))]
        write(tmp_path / f"text/test.{language}", [upper(line).replace("NBSP", "nbsp") for line in seen])
    counts = prepare(settings(task, tmp_path / "out")).counts
    assert counts["overlap"] == {"test": 3}
    assert "test set 'test': 3 of its 5 pairs also stand in the training text" in caplog.text
    assert "pairs of these sets that also stand in the training text: test 3" in list(format_stats(counts))
    assert counts["total"]["kept"] == 300, "none is dropped"


def test_the_demo_corpus(tmp_path: Path) -> None:
    data = settings("demo", tmp_path, source_language="en", target_language="de", vocabulary_size=600)
    prepared = prepare(data)
    counts = prepared.counts
    assert counts["total"]["kept"] == counts["total"]["read"] == len(ParallelDataset(prepared.train))
    for text_set in (prepared.dev, *prepared.tests):
        assert text_set.gold_alignments is not None
        assert len(list(read_lines(text_set.gold_alignments))) == len(list(read_lines(text_set.source)))


# From a server


def test_a_truncated_archive_is_named_and_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    text = sentences(3000)
    members = {
        "a/t.de": "".join(f"{line}\n" for line in text).encode(),
        "a/t.en": "".join(f"{line.upper()}\n" for line in text).encode(),
    }
    whole = packed("tgz", members)
    url = server.serve("/corpus.tgz", whole, Answer(content=whole[: len(whole) // 2]))
    task = own_task(tmp_path)
    text_of_task = task.read_text("utf-8").replace(
        "    files: {de: text/train.de.gz, en: text/train.en}",
        "    archive: corpus\n    members: {de: a/t.de, en: a/t.en}",
    )
    task.write_text(f"archives:\n  corpus:\n    - url: {url}\n{text_of_task}", "utf-8")
    with pytest.raises(
        DataError, match=r"source 'train': .*corpus\.tgz: archive 'corpus' is truncated.* by the next run"
    ):
        prepare(settings(task, tmp_path / "out"))
    prepared = prepare(settings(task, tmp_path / "out"))
    assert prepared.counts["total"]["read"] == 3000
    assert len(server.requests) == 2
    for path in (tmp_path / "out/archives").rglob("corpus.tgz"):
        path.unlink()
    prepare(settings(task, tmp_path / "out"))
    prepare(settings(task, tmp_path / "out", vocabulary_size=100))
    assert len(server.requests) == 2, "text that is made needs no archive any more"


def mirrored_task(directory: Path, host: str = "example.invalid") -> Path:
    """A task whose training text is on a host that does not exist, with a copy in a mirror."""
    task = own_task(directory)
    source = directory / "mirror" / host / "train.en"
    source.parent.mkdir(parents=True)
    for name in ("train.de.gz", "train.en"):
        (directory / "text" / name).rename(source.parent / name)
    archives = "".join(f"  {name}:\n    - url: https://{host}/{name}\n" for name in ("train.de.gz", "train.en"))
    text = task.read_text("utf-8").replace(
        "files: {de: text/train.de.gz, en: text/train.en}", "archive: {de: train.de.gz, en: train.en}"
    )
    task.write_text(f"archives:\n{archives}{text}", "utf-8")
    return task


@pytest.mark.parametrize("later", ["the same", ""], ids=["the mirror is gone", "no mirror is named"])
def test_what_is_prepared_is_used_again_without_its_mirror(tmp_path: Path, later: str) -> None:
    data = settings(mirrored_task(tmp_path), tmp_path / "out")
    mirror = tmp_path / "mirror"
    first = prepare(data, mirror=str(mirror))
    shutil.rmtree(mirror)
    later = str(mirror) if later else ""
    assert prepare(data, mirror=later) == first
    again = prepare(dataclasses.replace(data, vocabulary_size=100), mirror=later)
    assert again.train != first.train, "the text is used again, and stages that need no archive are made"
    shutil.rmtree(first.train.parent)
    assert prepare(data, mirror=later) == first


def test_a_changed_file_of_a_mirror_is_noticed(tmp_path: Path) -> None:
    data = settings(mirrored_task(tmp_path), tmp_path / "out")
    first = prepare(data, mirror=str(tmp_path / "mirror"))
    write(tmp_path / "mirror/example.invalid/train.en", [line.title() for line in sentences(300)])
    second = prepare(data, mirror=str(tmp_path / "mirror"))
    assert second.train != first.train
    assert decoded(second)[0] == (sentences(1)[0], sentences(1)[0].title())


# The command


def test_the_command_prints_the_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_task(tmp_path)
    base = Path(__file__).parents[2] / "configs/base.yaml"
    data = "data: {task: mine.yaml, source_language: de, target_language: en, vocabulary_size: 100}"
    (tmp_path / "c.yaml").write_text(f"extends: {base}\nrun_dir: run\n{data}\n", "utf-8")
    assert command.main(["--config", "c.yaml", "--workers", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["train", "300", "pairs,", "300", "kept"]
    assert "prepared in data/prepared/mine-de-en" in err
    assert command.main(["--config", "c.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["total"]["kept"] == 300
    write(tmp_path / "text/dev.en", ["one"])
    assert command.main(["--config", "c.yaml"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("source 'dev': de has 7 lines and en 1; accepted: as many on both sides")
    )


# What the manual says


def test_two_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tutorial's way from two files to data: split by its shell line, named by its task file and configuration."""
    tutorial = (Path(__file__).parents[2] / "docs/tutorial.md").read_text("utf-8")
    commands = re.findall(r"```sh\n(.*?)```", tutorial, re.DOTALL)[0]
    task, config = re.findall(r"```yaml\n(.*?)```", tutorial, re.DOTALL)[:2]
    write(tmp_path / "text.en", [*sentences(500), *sentences(9)])
    write(tmp_path / "text.de", [line.upper() + "\r" for line in [*sentences(500), *sentences(9)]])
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "mytask.yaml").write_text(task, "utf-8")
    (tmp_path / "mine.yaml").write_text(config, "utf-8")
    monkeypatch.chdir(tmp_path)
    start = ["--config", "mine.yaml", "--json", "data.vocabulary_size=100"]
    assert command.main(start) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["total"]["read"], counts["total"]["dropped"]) == (480, {})
    assert (counts["dev"], counts["tests"]) == (10, {"test": 10})
    (dev,) = (tmp_path / "data/prepared").glob("mytask-en-de/sets-*/dev.de")
    assert list(read_lines(dev)) == [sentences(500)[place].upper() for place in range(0, 500, 50)]
    # What may go wrong on the way is one line each.
    for change, message in {
        ("file: dev.tsv", "file: dve.tsv"): "dve.tsv: no such file; paths start from the task file",
        ("file: dev.tsv", "file: https://example.org/dev.tsv"): "/dev.tsv: no such file; a URL stands under archives",
        ("file: dev.tsv", "file: ~nobody-at-all/dev.tsv"): "~nobody-at-all/dev.tsv: no such file; paths start from",
        ("file: dev.tsv, columns: [en, de]", "file: dev.tsv, columns: [en, '-', de]"): (
            "source 'dev': 'columns' names 3 fields, but line 1 has 2, and no line after it 3; "
            "accepted: fields with tabs between them"
        ),
        ("columns: [en, de]", "columns: [en, se]"): "mytask.yaml:2: train[0].columns[1]: unknown language 'se'",
        ("format: tsv, file: train.tsv, columns: [en, de]", "files: {en: text.en, de: '*.de'}"): (
            "*.de: no such file; globs are for members of archives"
        ),
    }.items():
        assert change[0] in task
        (tmp_path / "mytask.yaml").write_text(task.replace(*change, 1), "utf-8")
        assert command.main(start) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_leftovers_of_a_kill_are_deleted(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    (tmp_path / "out/mine-de-en/text-0123.partial").mkdir(parents=True)
    prepare(settings(task, tmp_path / "out"))
    assert not list(tmp_path.rglob("*.partial"))


def test_text_files_may_be_deleted_after_preparation(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    prepared = prepare(settings(task, tmp_path / "out"))
    (tmp_path / "text/train.de.gz").unlink()
    assert prepare(settings(task, tmp_path / "out")) == prepared
    prepare(settings(task, tmp_path / "out", vocabulary_size=100))


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    for language in ("de", "en"):
        write(tmp_path / f"text/dev.{language}", [])
    with pytest.raises(DataError, match="source 'dev': has no lines"):
        prepare(settings(task, tmp_path / "out"))


@pytest.mark.parametrize(
    "odd",
    [
        "a\u2028b\u2029c\x85d\x1ce",
        "a\x00b\x0bc\x1bd\x0ce",
        "a\xa0b\u202fc\td\u2009e",
        "a&nbsp;b&#32;c&amp;nbsp;d&amp;amp;#x20;e",
        "a\u200b b\ufeff c\xad d\u200f e",
    ],
)
def test_all_text_is_repaired_alike(tmp_path: Path, odd: str) -> None:
    task = own_task(tmp_path)
    for language in ("de", "en"):
        for name in ("dev", "test"):
            write(tmp_path / f"text/{name}.{language}", [odd, "", "x"])
        write(tmp_path / f"text/train.{language}", [odd, *sentences(200)])
    task.write_text(task.read_text("utf-8").replace("train.de.gz", "train.de"), "utf-8")
    data = settings(task, tmp_path / "out", drop_untranslated=False)
    prepared = prepare(data)
    (text,) = prepared.directory.glob("text-*")
    sets = [files for found in (prepared.dev, *prepared.tests) for files in (found.source, found.target)]
    firsts = {next(iter(read_lines(path))) for path in (text / "train.de", text / "train.en", *sets)}
    # What `Translator` does to lines to translate, prefixes and references.
    assert firsts | {normalization_for(language, data)(odd) for language in data.languages} == {"a b c d e"}
    assert list(read_lines(prepared.dev.source))[1:] == ["", "x"], "no pair of a set is dropped"
    assert len(ParallelDataset(prepared.dev_binary)) == 3
