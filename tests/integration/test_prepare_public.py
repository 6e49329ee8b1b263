"""The public tasks in small, from a mirror to batches: every blemish planted there is accounted for."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import tarfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from own_text import settings

from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.cleaning_stats import read_stats
from nmt_rela.preparation.pipeline import prepare
from nmt_rela.preparation.sources.archive_cache import ArchiveCache
from nmt_rela.preparation.sources.task import archives_of
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.preparation.stages import make_text
from nmt_rela.utils.text import read_lines

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
    data = settings(
        task, out, source_language=source, target_language=target, vocabulary_size=4000, tokenizer_sample_size=20_000
    )
    prepared = prepare(data, mirror=str(mirror))
    assert (prepared.counts["dev"], list(prepared.counts["tests"].values())) == (dev, [test])
    noise = json.loads((mirror / "NOISE.json").read_bytes())
    assert prepared.counts["sources"].keys() == names.keys()
    for name, stats in prepared.counts["sources"].items():
        entries = [noise[key] for key in names[name]]
        dropped, repaired = stats["dropped"], stats["repaired"]
        assert stats["read"] == sum(entry["pairs_total"] for entry in entries)
        assert stats["read"] == stats["kept"] + sum(dropped.values())
        planted: Counter[str] = Counter()
        for entry in entries:
            planted.update(entry["planted"])
        if not planted:
            continue
        assert dropped["empty"] >= planted["empty_source"] + planted["empty_target"] + planted["blank_both"]
        assert dropped["copy"] >= planted["copied_source"]
        assert dropped["ratio"] >= planted["ratio_outlier"]
        # The same lines are planted in every member: where they come again they are duplicates.
        assert 1 <= dropped["overlength"] <= planted["overlong"]
        others = ("exact_duplicates", "overlong", "unicode_separator_inside", "control_characters", "html_entities")
        found = dropped["duplicate"] + dropped["overlength"] + sum(repaired.values())
        assert found >= sum(planted[key] for key in others)
        assert stats["read"] - stats["kept"] + sum(repaired.values()) >= sum(planted.values())
    corpus = ParallelDataset(prepared.train)
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
    """The stats of a parallel text by the manual's table, written without regard to speed."""
    outcomes: Counter[str] = Counter()
    for pair in zip(*sides, strict=True):
        try:
            raw = [re.sub("[\t\xa0\u2000-\u200a\u202f]", " ", line.decode("utf-8")) for line in pair]  # not counted
        except UnicodeDecodeError:
            outcomes["undecodable"] += 1
            continue
        resolved = [re.sub(r"&#?\w+;", lambda found: html.unescape(found[0]), text) for text in raw]
        visible = [
            "".join(
                c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf" or c in "\u200c\u200d"
            )
            for text in resolved
        ]
        plain = ["".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text) for text in visible]
        left, right = (text.strip() for text in plain)
        words = sorted([len(left.split()), len(right.split())])
        if not left or not right:
            outcomes["empty"] += 1
        elif max(len(left), len(right)) > 65_536:
            outcomes["overlength"] += 1
        elif left == right and words[1] >= 3:
            outcomes["copy"] += 1
        elif words[1] > 5 and words[1] > 9 * words[0]:
            outcomes["ratio"] += 1
        elif (left, right) in seen:
            outcomes["duplicate"] += 1
        else:
            outcomes["kept"] += 1
            outcomes["repaired"] += plain != raw
            seen.add((left, right))
    return outcomes


def test_the_statistics_equal_those_counted_by_hand(mirror: Path, tmp_path: Path) -> None:
    task = load_task("wmt16-ro-en")
    fetched = ArchiveCache(tmp_path / "archives", mirror=str(mirror)).fetch(archives_of(task.train, ("ro", "en")))
    files = {archive.name: archive for archive in fetched}
    make_text(
        tmp_path, settings("wmt16-ro-en", tmp_path, source_language="ro", target_language="en"), task.train, files
    )
    stats_by_source = read_stats(tmp_path / "cleaning_stats.json")
    with tarfile.open(files["europarl-v8-wmt16"].paths[0]) as tar, zipfile.ZipFile(files["setimes"].paths[0]) as zipped:
        texts = {
            "europarl-v8": [
                tar.extractfile(f"training-parallel-ep-v8/europarl-v8.ro-en.{code}").read()  # type: ignore[union-attr]
                for code in ("ro", "en")
            ],
            "setimes2": [zipped.read(f"SETIMES.en-ro.{code}") for code in ("ro", "en")],
        }
    seen: set[tuple[str, str]] = set()
    for name, stats in stats_by_source.items():
        outcomes = by_hand([text.removesuffix(b"\n").split(b"\n") for text in texts[name]], seen)
        found = {**stats.dropped, "kept": stats.kept, "repaired": sum(stats.repaired.values())}
        assert found == outcomes
    assert (tmp_path / "train.ro").read_bytes().count(b"\n") == len(seen)


@pytest.mark.parametrize("target", ["de", pytest.param("fr", marks=pytest.mark.slow)])
def test_multi30k(mirror: Path, tmp_path: Path, target: str) -> None:
    data = settings(
        "multi30k",
        tmp_path,
        source_language="en",
        target_language=target,
        vocabulary_size=2000,
        tokenizer_sample_size=5000,
    )
    counts = prepare(data, mirror=str(mirror)).counts
    assert (counts["total"]["read"], counts["dev"], counts["tests"]) == (29_000, 1014, {"test_2016_flickr": 1000})
    assert counts["total"]["kept"] > 28_900


def test_chinese_text_is_restored_unchanged(mirror: Path, tmp_path: Path) -> None:
    data = settings(
        "wmt18-zh-en",
        tmp_path,
        source_language="zh",
        target_language="en",
        vocabulary_size=8000,
        joint_vocabulary=False,
    )
    prepared = prepare(dataclasses.replace(data, max_pairs_per_source=500), mirror=str(mirror))
    tokenizer = TokenizerPair.load(prepared.tokenizer).source
    text = "他说：“ＡＢＣ１２３，ABC123！”（全角）"
    (cleaned,) = prepared.directory.glob("text-*/train.zh")
    known = [" ".join(line.split()) for line in list(read_lines(cleaned))[:500]]
    assert tokenizer.decode(tokenizer.encode(known)) == known
    full = [character for character in text if tokenizer.encode([character])[0][-1] != 1]
    assert tokenizer.decode(tokenizer.encode(full)) == full
