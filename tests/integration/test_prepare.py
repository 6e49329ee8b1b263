"""From a task file to batches, by the command and by the function: a user's own text, and the public tasks in small."""

from __future__ import annotations

import dataclasses
import gzip
import html
import json
import logging
import re
import subprocess
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Answer, FileServer, file_server
from packing import packed

from nmt_rela.commands import prepare as command
from nmt_rela.config.schema import DataConfig
from nmt_rela.corpora.accounts import read_accounts
from nmt_rela.corpora.building import clean_text
from nmt_rela.corpora.prepare import PreparedData, locate, prepare
from nmt_rela.corpora.store import ArchiveStore
from nmt_rela.corpora.task_files import load_task
from nmt_rela.data.binary import BinaryCorpus
from nmt_rela.data.vocabulary import EOS, Vocabularies
from nmt_rela.errors import ConfigError, DataError
from nmt_rela.text import read_lines

WORDS = ("ein haus am see", "der hund", "die katze schläft im garten", "wir gehen heute", "es regnet", "gute nacht")


def sentences(count: int, *, mark: str = "") -> list[str]:
    return [f"{mark}{WORDS[n % 6]} {WORDS[n // 6 % 6]} {WORDS[n // 36 % 6]} {n % 100}" for n in range(count)]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def own_task(directory: Path, *, pairs: int = 300, extra: str = "") -> Path:
    """A user's corpus beside its task file."""
    write(directory / "text/train.de.gz", sentences(pairs))
    write(directory / "text/train.en", [line.upper() for line in sentences(pairs)])
    for name, count in (("dev", 7), ("test", 5)):
        write(directory / f"text/{name}.de", sentences(count, mark=f"{name} "))
        write(directory / f"text/{name}.en", [line.upper() for line in sentences(count, mark=f"{name} ")])
    task = directory / "mine.yaml"
    task.write_text(
        "languages: [de, en]\n"
        "train:\n  - name: train\n    files: {de: text/train.de.gz, en: text/train.en}\n"
        "dev:\n  - name: dev\n    files: {de: text/dev.de, en: text/dev.en}\n"
        f"tests:\n  - name: test\n    files: {{de: text/test.de, en: text/test.en}}\n{extra}",
        "utf-8",
    )
    return task


def settings(task: Path | str, directory: Path, **changes: object) -> DataConfig:
    values = {"source": "de", "target": "en", "vocabulary_size": 120, **changes}
    return DataConfig(task=str(task), directory=str(directory), **values)  # type: ignore[arg-type]


def tree(directory: Path) -> dict[str, bytes]:
    """Every file of prepared data; archives and locks left out."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "archives" not in path.parts and not path.name.endswith("lock")
    }


def decoded(prepared: PreparedData) -> list[tuple[str, str]]:
    corpus, vocabularies = BinaryCorpus.open(prepared.train), Vocabularies.load(prepared.tokenizer)
    assert corpus.vocabulary_fingerprint == vocabularies.fingerprint
    sides = (
        vocabularies.source.decode([corpus.source(index)[:-1].tolist() for index in range(len(corpus))]),
        vocabularies.target.decode([corpus.target(index)[:-1].tolist() for index in range(len(corpus))]),
    )
    return list(zip(*sides, strict=True))


def test_own_text_becomes_pairs_of_ids(tmp_path: Path) -> None:
    prepared = prepare(settings(own_task(tmp_path), tmp_path / "out"))
    expected = sentences(300)
    assert decoded(prepared) == [(line, line.upper()) for line in dict.fromkeys(expected)]
    assert prepared.counts["sources"]["train"] == {"read": 300, "kept": 300, "dropped": {}, "mended": {}, "cut": 0}
    assert (prepared.counts["dev"], prepared.counts["tests"]) == (7, {"test": 5})
    assert list(read_lines(prepared.dev.source)) == sentences(7, mark="dev ")
    assert list(read_lines(prepared.tests[0].target)) == [line.upper() for line in sentences(5, mark="test ")]
    assert (prepared.tests[0].bleu_tokenizer, prepared.tests[0].gold_alignments) == ("13a", None)
    dev = BinaryCorpus.open(prepared.dev_binary)
    assert len(dev) == 7
    assert all(dev.source(index)[-1] == EOS for index in range(7))
    assert locate(settings(tmp_path / "mine.yaml", tmp_path / "out")) == prepared


def test_a_second_run_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = settings(own_task(tmp_path), tmp_path / "out")
    first = prepare(data)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with caplog.at_level(logging.INFO):
        caplog.clear()
        assert prepare(data) == first
    assert caplog.text == ""
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


SUBWORDS = {"subwords", "train", "dev"}
TEXT = {"text", *SUBWORDS}
#: What each option changes, and the stages that are made again for it.
CHANGES: list[tuple[dict[str, object], set[str]]] = [
    ({"max_length": 15}, {"train"}),
    ({"overlong": "cut", "max_length": 8}, {"train"}),
    ({"vocabulary_size": 100}, SUBWORDS),
    ({"joint_vocabulary": False}, SUBWORDS),
    ({"subword": "unigram"}, SUBWORDS),
    ({"subword_sample": 50}, SUBWORDS),
    ({"character_coverage": 0.98}, SUBWORDS),
    ({"max_length_ratio": 5.0}, TEXT),
    ({"max_pairs": 100}, TEXT),
    ({"drop_duplicates": False}, TEXT),
    ({"drop_copies": False}, TEXT),
    ({"romanian": "cedilla"}, {"sets", *TEXT}),
]


def test_every_option_has_its_stages() -> None:
    options = {name for change, _ in CHANGES for name in change} | {"task", "directory", "source", "target"}
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
    assert BinaryCorpus.open(prepared.train).fingerprint == BinaryCorpus.open(other.train).fingerprint


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
    assert dropped.counts["total"]["dropped"] == {"overlong": 1}
    assert len(BinaryCorpus.open(dropped.train)) == 299
    cut = prepare(settings(task, tmp_path / "out", max_length=40, overlong="cut"))
    assert (cut.counts["total"]["dropped"], cut.counts["total"]["cut"]) == ({}, 1)
    corpus = BinaryCorpus.open(cut.train)
    assert (len(corpus), corpus.source_lengths.max(), corpus.target_lengths.max()) == (300, 40, 40)
    with pytest.raises(DataError, match=r"data\.max_length: every training pair is longer than 2"):
        prepare(settings(task, tmp_path / "out", max_length=2))


def test_both_directions_and_both_vocabularies(tmp_path: Path) -> None:
    links = "\n".join(["0-1 2p3"] * 5)
    extra = "    alignments: {file: test.align, order: [de, en]}\n"
    task = own_task(tmp_path, extra=extra)
    (tmp_path / "test.align").write_text(links + "\n", "utf-8")
    there = prepare(settings(task, tmp_path / "out", joint_vocabulary=False, subword="unigram", vocabulary_size=60))
    back = prepare(settings(task, tmp_path / "out", source="en", target="de"))
    assert decoded(back) == [(right, left) for left, right in decoded(there)]
    assert not Vocabularies.load(there.tokenizer).joint
    assert Vocabularies.load(back.tokenizer).joint
    assert there.tests[0].gold_alignments is not None
    assert back.tests[0].gold_alignments is not None
    assert there.tests[0].gold_alignments.read_text() == links + "\n"
    assert back.tests[0].gold_alignments.read_text() == "\n".join(["1-0 3p2"] * 5) + "\n"
    (tmp_path / "test.align").write_text("0-1\n", "utf-8")
    with pytest.raises(DataError, match=r"test\.align: 1 lines of links for 5 pairs"):
        prepare(settings(task, tmp_path / "other"))
    (tmp_path / "test.align").write_text("0-1\n0:1\n", "utf-8")
    with pytest.raises(DataError, match=r"test\.align:2: not all of it are links"):
        prepare(settings(task, tmp_path / "other"))


def test_a_vocabulary_larger_than_the_corpus_supports_is_lowered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = own_task(tmp_path)
    for subword in ("bpe", "unigram"):
        caplog.clear()
        prepared = prepare(settings(task, tmp_path / "out", vocabulary_size=50_000, subword=subword))
        assert 20 < prepared.counts["vocabulary"]["source"] < 5000
        assert "sub-words, not data.vocabulary_size=50000" in caplog.text
    with pytest.raises(ConfigError, match=r"data\.vocabulary_size: found 12; the corpus has \d+ characters"):
        prepare(settings(task, tmp_path / "out", vocabulary_size=12))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: write(root / "text/dev.en", ["one"]), r"source 'dev': de has 7 lines and en 1; accepted"),
        (
            lambda root: (root / "text/train.en").unlink(),
            r"^/.*text/train\.en: no such file; paths start from",
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
def test_bad_text_is_one_line_and_leaves_nothing(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    task = own_task(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        prepare(settings(task, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(DataError, match="not prepared; run nmt-prepare"):
        locate(settings(task, tmp_path / "out"))


def test_bad_settings_are_one_line(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.source: the task 'mine' has no language 'dd'; did you mean 'de'"):
        prepare(settings(task, tmp_path, source="dd"))
    with pytest.raises(ConfigError, match=r"data\.target: found 'de', which is the source"):
        prepare(settings(task, tmp_path, target="de"))
    with pytest.raises(ConfigError, match=r"data\.romanian: 'remove' would train"):
        prepare(settings("wmt16-ro-en", tmp_path, source="en", target="ro", romanian="remove"))


# From a server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NMT_RELA_MIRROR", raising=False)
    with file_server() as files:
        yield files


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


# The command


def test_the_command_prints_the_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_task(tmp_path)
    base = Path(__file__).parents[2] / "configs/base.yaml"
    data = "data: {task: mine.yaml, source: de, target: en, vocabulary_size: 100}"
    (tmp_path / "c.yaml").write_text(f"extends: {base}\nrun: run\n{data}\n", "utf-8")
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


# The public tasks, from a mirror


def test_the_generated_corpus(tmp_path: Path) -> None:
    data = settings("demo", tmp_path, source="en", target="de", vocabulary_size=600)
    prepared = prepare(data)
    counts = prepared.counts
    assert counts["total"]["kept"] == counts["total"]["read"] == len(BinaryCorpus.open(prepared.train))
    for text_set in (prepared.dev, *prepared.tests):
        assert text_set.gold_alignments is not None
        assert len(list(read_lines(text_set.gold_alignments))) == len(list(read_lines(text_set.source)))


#: Task, languages, lines of the development and test set, and the entries of the mirror's list of planted blemishes
#: that belong to each source.
PUBLIC: list[tuple[str, str, str, int, int, dict[str, list[str]]]] = [
    (
        *("wmt14-en-de", "en", "de", 3000, 3003),
        {name: [f"{name}.de-en"] for name in ("europarl-v7", "commoncrawl", "news-commentary-v9")},
    ),
    (
        *("wmt14-en-fr", "en", "fr", 3000, 3003),
        {name: [f"{name}.fr-en"] for name in ("europarl-v7", "commoncrawl", "undoc.2000", "news-commentary-v9")}
        | {"giga-fren": ["giga-fren.release2.fixed"]},
    ),
    (
        *("wmt18-en-fi", "en", "fi", 7372, 3000),
        {name: [f"{name}.fi-en"] for name in ("europarl-v8", "wiki-titles")}
        | {name: [f"{name}.en-fi"] for name in ("paracrawl-release1", "rapid2016")},
    ),
    (
        *("wmt18-zh-en", "zh", "en", 3001, 3981),
        {
            "news-commentary-v13": ["news-commentary-v13.zh-en"],
            "uncorpus-v1.0": ["UNv1.0.en-zh"],
            "casia2015": ["casia2015/casia2015"],
            "casict2011": ["casict2011/casict-A", "casict2011/casict-B"],
            "casict2015": ["casict2015/casict2015"],
            "datum2015": ["datum2015/datum"],
            "datum2017": ["datum2017/Book1", "datum2017/Book2", "datum2017/Book10"],
            "neu2017": ["neu2017/NEU"],
        },
    ),
    (
        *("wmt16-ro-en", "ro", "en", 1999, 1999),
        {"europarl-v8": ["europarl-v8.ro-en"], "setimes2": ["SETIMES.en-ro"]},
    ),
]


def check_public(
    mirror: Path, out: Path, task: str, source: str, target: str, dev: int, test: int, names: dict[str, list[str]]
) -> None:
    """A task runs from URL to binary, and every planted blemish is accounted for once."""
    data = settings(task, out, source=source, target=target, vocabulary_size=4000, subword_sample=20_000)
    prepared = prepare(data, mirror=str(mirror))
    assert (prepared.counts["dev"], list(prepared.counts["tests"].values())) == (dev, [test])
    noise = json.loads((mirror / "NOISE.json").read_bytes())
    assert prepared.counts["sources"].keys() == names.keys()
    for name, account in prepared.counts["sources"].items():
        entries = [noise[key] for key in names[name]]
        dropped, mended = account["dropped"], account["mended"]
        assert account["read"] == sum(entry["pairs_total"] for entry in entries)
        assert account["read"] == account["kept"] + sum(dropped.values())
        planted: Counter[str] = Counter()
        for entry in entries:
            planted.update(entry["planted"])
        if not planted:
            continue
        assert dropped["empty"] >= planted["empty_source"] + planted["empty_target"] + planted["blank_both"]
        assert dropped["copy"] >= planted["copied_source"]
        assert dropped["ratio"] >= planted["ratio_outlier"]
        # The same lines are planted in every member: where they come again they are duplicates.
        assert 1 <= dropped["overlong"] <= planted["overlong"]
        others = ("exact_duplicates", "overlong", "unicode_separator_inside", "control_characters", "html_entities")
        found = dropped["duplicate"] + dropped["overlong"] + sum(mended.values())
        assert found >= sum(planted[key] for key in others)
        assert account["read"] - account["kept"] + sum(mended.values()) >= sum(planted.values())
    corpus = BinaryCorpus.open(prepared.train)
    corpus.verify()
    assert len(corpus) == prepared.counts["total"]["kept"]
    assert np.all(corpus.source_lengths >= 2)


@pytest.mark.parametrize(
    "public",
    [pytest.param(public, marks=[] if public[0] == "wmt16-ro-en" else [pytest.mark.slow]) for public in PUBLIC],
    ids=lambda public: public[0],
)
def test_public_tasks(
    mirror: Path, tmp_path: Path, public: tuple[str, str, str, int, int, dict[str, list[str]]]
) -> None:
    check_public(mirror, tmp_path, *public)


def by_hand(sides: list[list[bytes]], seen: set[tuple[str, str]]) -> Counter[str]:
    """The account of a parallel text by the manual's table, written without regard to speed."""
    fates: Counter[str] = Counter()
    for pair in zip(*sides, strict=True):
        try:
            raw = [line.decode("utf-8") for line in pair]
        except UnicodeDecodeError:
            fates["undecodable"] += 1
            continue
        resolved = [re.sub(r"&#?\w+;", lambda found: html.unescape(found[0]), text) for text in raw]
        plain = [
            "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") and c != "\t" else c for c in text)
            for text in resolved
        ]
        left, right = (text.strip() for text in plain)
        words = sorted([len(left.split()), len(right.split())])
        if not left or not right:
            fates["empty"] += 1
        elif max(len(left), len(right)) > 65_536:
            fates["overlong"] += 1
        elif left == right and words[1] >= 3:
            fates["copy"] += 1
        elif words[1] > 5 and words[1] > 9 * words[0]:
            fates["ratio"] += 1
        elif (left, right) in seen:
            fates["duplicate"] += 1
        else:
            fates["kept"] += 1
            fates["mended"] += plain != raw
            seen.add((left, right))
    return fates


def test_the_account_is_that_made_by_hand(mirror: Path, tmp_path: Path) -> None:
    task = load_task("wmt16-ro-en")
    wanted = [archive for source in task.train for archive in source.archives("ro", "en")]
    fetched = ArchiveStore(tmp_path / "archives", mirror=str(mirror)).fetch(wanted)
    files = {name: files for name, (files, _) in fetched.items()}
    clean_text(tmp_path, settings("wmt16-ro-en", tmp_path, source="ro", target="en"), task.train, files)
    accounts = read_accounts(tmp_path / "accounts.json")
    with tarfile.open(files["europarl-v8-wmt16"].paths[0]) as tar, zipfile.ZipFile(files["setimes"].paths[0]) as zipped:
        texts = {
            "europarl-v8": [
                tar.extractfile(f"training-parallel-ep-v8/europarl-v8.ro-en.{code}").read()  # type: ignore[union-attr]
                for code in ("ro", "en")
            ],
            "setimes2": [zipped.read(f"SETIMES.en-ro.{code}") for code in ("ro", "en")],
        }
    seen: set[tuple[str, str]] = set()
    for name, account in accounts.items():
        fates = by_hand([text.removesuffix(b"\n").split(b"\n") for text in texts[name]], seen)
        found = {**account.dropped, "kept": account.kept, "mended": sum(account.mended.values())}
        assert found == fates
    assert (tmp_path / "train.ro").read_bytes().count(b"\n") == len(seen)


@pytest.mark.parametrize("target", ["de", pytest.param("fr", marks=pytest.mark.slow)])
def test_multi30k(mirror: Path, tmp_path: Path, target: str) -> None:
    data = settings("multi30k", tmp_path, source="en", target=target, vocabulary_size=2000, subword_sample=5000)
    counts = prepare(data, mirror=str(mirror)).counts
    assert (counts["total"]["read"], counts["dev"], counts["tests"]) == (29_000, 1014, {"test_2016_flickr": 1000})
    assert counts["total"]["kept"] > 28_900


def test_chinese_text_comes_back_as_it_was(mirror: Path, tmp_path: Path) -> None:
    data = settings("wmt18-zh-en", tmp_path, source="zh", target="en", vocabulary_size=8000, joint_vocabulary=False)
    prepared = prepare(dataclasses.replace(data, max_pairs=500), mirror=str(mirror))
    vocabulary = Vocabularies.load(prepared.tokenizer).source
    text = "他说：“ＡＢＣ１２３，ABC123！”（全角）"
    (cleaned,) = prepared.directory.glob("text-*/train.zh")
    known = [" ".join(line.split()) for line in list(read_lines(cleaned))[:500]]
    assert vocabulary.decode(vocabulary.encode(known)) == known
    full = [character for character in text if vocabulary.encode([character])[0][-1] != 1]
    assert vocabulary.decode(vocabulary.encode(full)) == full


# What the manual says


def test_the_worked_example_of_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(__file__).parents[2]
    manual = (repository / "docs/tasks.md").read_text("utf-8")
    task, config = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)[:2]
    for name, count in (("train.en.gz", 400), ("train.sv.gz", 400), ("dev.en", 5), ("dev.sv", 5)):
        write(tmp_path / "corpora" / name, sentences(count))
    for name in ("test.en", "test.sv"):
        write(tmp_path / "corpora" / name, sentences(3))
    (tmp_path / "corpora/sv.yaml").write_text(task, "utf-8")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/base.yaml").write_bytes((repository / "configs/base.yaml").read_bytes())
    (tmp_path / "configs/sv.yaml").write_text(config, "utf-8")
    monkeypatch.chdir(tmp_path)
    overrides = ["data.vocabulary_size=100", "data.drop_copies=false"]
    assert command.main(["--config", "configs/sv.yaml", *overrides]) == 0
    assert (tmp_path / "data/prepared/sv-en-sv").is_dir()


def test_two_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manual's way from two files to data: split by its shell line, named by its task file, used by its config."""
    repository = Path(__file__).parents[2]
    chapter = (repository / "docs/tasks.md").read_text("utf-8").split("## Nothing but two files, or one\n")[1]
    (commands,) = re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)
    task, config = re.findall(r"```yaml\n(.*?)```", chapter, re.DOTALL)[:2]
    write(tmp_path / "text.en", [*sentences(500), *sentences(9)])
    write(tmp_path / "text.sv", [line.upper() + "\r" for line in [*sentences(500), *sentences(9)]])
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "split.yaml").write_text(task, "utf-8")
    (tmp_path / "split-en-sv.yaml").write_text(config, "utf-8")
    (tmp_path / "configs").symlink_to(repository / "configs")
    monkeypatch.chdir(tmp_path)
    start = ["--config", "split-en-sv.yaml", "--json", "data.vocabulary_size=100"]
    assert command.main(start) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["total"]["read"], counts["total"]["dropped"]) == (490, {})
    assert (counts["dev"], counts["tests"]) == (5, {"test": 5})
    (dev,) = (tmp_path / "data/prepared").glob("split-en-sv/sets-*/dev.sv")
    assert list(read_lines(dev)) == [sentences(500)[place].upper() for place in range(0, 500, 100)]
    # What may go wrong on the way is one line each.
    for change, message in {
        ("file: dev.tsv", "file: dve.tsv"): "dve.tsv: no such file; paths start from the task file",
        ("file: dev.tsv, columns: [en, sv]", "file: dev.tsv, columns: [en, '-', sv]"): (
            "source 'dev': 'columns' wants 3 fields, but line 1 has 2, and no line after it enough; "
            "accepted: fields with tabs between them"
        ),
        ("columns: [en, sv]", "columns: [en, se]"): "split.yaml:3: train[0].columns[1]: unknown language 'se'",
        ("format: tab, file: train.tsv, columns: [en, sv]", "files: {en: text.en, sv: '*.sv'}"): (
            "*.sv: no such file; globs are for members of archives"
        ),
    }.items():
        assert change[0] in task
        (tmp_path / "split.yaml").write_text(task.replace(*change, 1), "utf-8")
        assert command.main(start) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_leftovers_of_a_kill_are_cleared_up(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    (tmp_path / "out/mine-de-en/text-0123.partial").mkdir(parents=True)
    prepare(settings(task, tmp_path / "out"))
    assert not list(tmp_path.rglob("*.partial"))


def test_prepared_text_may_be_deleted(tmp_path: Path) -> None:
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


def test_odd_characters_in_a_set_stay_there(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    odd = "a\u2028b\u0085c\x00d\x0be \u3000"
    for language in ("de", "en"):
        write(tmp_path / f"text/dev.{language}", [odd, "", "x"])
    prepared = prepare(settings(task, tmp_path / "out"))
    assert list(read_lines(prepared.dev.source)) == [odd, "", "x"]
    assert len(BinaryCorpus.open(prepared.dev_binary)) == 3
