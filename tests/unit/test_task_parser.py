"""Task files are read strictly: a mistake is one line that names its place and what is accepted."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from nmt_rela.preparation.sources.task import Task, archive_format_of
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.utils.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "data" / "tasks").glob("*.yaml"))

GOOD = """\
title: A corpus
licence: CC0
languages: [en, de]
archives:
  news:
    - url: https://example.org/news.tgz
      sha256: {digest}
      bytes: 12
    - parts:
        - url: https://example.org/news.tar.gz.00
        - {{url: https://example.org/news.tar.gz.01, md5: 0123456789abcdef0123456789abcdef}}
  mine:
    - path: packed/mine.zip
train:
  - name: news
    archive: news
    members: {{en: a/train.en, de: a/train.de}}
  - name: fields
    format: tsv
    file: fields.tsv.gz
    columns: ["-", de, en]
  - name: memory
    format: tmx
    archive: mine
    member: memory.tmx
dev:
  - name: dev
    files: {{en: dev.en, de: dev.de}}
    lines: 3
tests:
  - name: test
    files: {{en: test.en, de: test.de}}
    alignments: {{file: test.align, order: [de, en]}}
""".format(digest="0" * 64)


def load(tmp_path: Path, text: str) -> Task:
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    return load_task(str(path))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_tasks_can_be_read_by_name(path: Path) -> None:
    task = load_task(path.stem)
    assert task.path == path
    assert task.train
    assert task.dev
    assert task.tests
    assert "not stated" not in task.licence
    for source in (*task.dev, *task.tests):
        assert source.lines or task.name == "demo" or source.name == "newsdev2017", "a published set has a known size"


def test_every_key_of_a_task_file_is_read(tmp_path: Path) -> None:
    task = load(tmp_path, GOOD)
    news, fields, memory = task.train
    tgz, parts = news.sides["en"].archive.locations
    assert (tgz.format, tgz.parts[0].sha256, tgz.parts[0].bytes) == ("tgz", "0" * 64, 12)
    assert (parts.format, [part.md5 for part in parts.parts]) == ("tar.gz", ["", "0123456789abcdef0123456789abcdef"])
    assert fields.columns == ("-", "de", "en")
    assert set(fields.sides) == {"en", "de"}
    assert fields.sides["en"].archive.locations[0].path == tmp_path / "fields.tsv.gz"
    assert memory.sides["de"].member == "memory.tmx"
    assert memory.sides["de"].archive.locations[0].path == tmp_path / "packed/mine.zip"
    (test,) = task.tests
    assert (test.alignments, test.alignment_order) == (tmp_path / "test.align", ("de", "en"))
    assert task.bleu_tokenizer("de") == "13a"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence:", "license:", r"mine\.yaml:2: license: unknown key; did you mean 'licence'\?"),
        ("languages: [en, de]", "languages: [en]", "languages: found en; accepted: two or more"),
        ("languages: [en, de]", "", r"mine\.yaml:1: missing required key: languages"),
        ("members: {en", "member: {en", r"train\[0\]\.member: expected text, found a mapping"),
        ("archive: news", "archive: newz", r"train\[0\]\.archive: unknown archive 'newz'; did you mean 'news'"),
        ("a/train.de}", "a/train.de, fr: x}", r"members\.fr: unknown key"),
        ("format: tsv", "format: tzv", r"train\[1\]\.format: found the text 'tzv'; did you mean 'tsv'"),
        ('["-", de, en]', '["-", de, fr]', r"columns\[2\]: unknown language 'fr'"),
        ('["-", de, en]', '["-", de]', r"columns: found de; accepted: two or more different languages"),
        ('    columns: ["-", de, en]\n', "", r"train\[1\]: columns is missing; accepted: the language of each"),
        (
            "format: tmx\n    archive: mine\n",
            "format: tmx\n",
            r"train\[2\]: found neither file nor archive; accepted: file,",
        ),
        ("files: {en: dev.en, de: dev.de}", "files: {en: dev.en}", r"dev\[0\]: found en; accepted: two or more"),
        (
            "archive: news\n    members",
            "archive: {de: news}\n    members",
            r"members\.en: has no archive; accepted",
        ),
        ("format: tmx", "format: text", r"member: this format has a file for each language"),
        ("member: memory.tmx", "lines: 3", r"no member of it is named"),
        ("file: fields.tsv.gz", "file: fields.zip", r"file: found a zip archive"),
        ("lines: 3", "lines: 0", r"lines: found 0; accepted: 1 or more"),
        ("lines: 3", "lines: true", r"lines: expected a whole number, found true"),
        ("bytes: 12", "bytes: many", r"bytes: expected a whole number"),
        ("0" * 64, "00", r"sha256: found 00; accepted: 64 hexadecimal digits"),
        ("https://example.org/news.tgz", "ftp://example.org/news.tgz", r"url: found 'ftp:.*accepted: an http"),
        ("https://example.org/news.tgz", "https://example.org:x/news.tgz", r"url: found 'https:.*accepted: an http"),
        ("https://example.org/news.tgz", "'https://[/news.tgz'", r"url: found 'https:.*accepted: an http"),
        ("news.tar.gz.00", "news.zip.00", r"a zip archive cannot be read in parts"),
        (
            "languages: [en, de]",
            "languages: [en, ../de]",
            r"languages\[1\]: found the text '\.\./de'; accepted: letters",
        ),
        ("languages: [en, de]", "languages: [en, de, '-']", r"languages\[2\]: found the text '-'; accepted: letters"),
        ("name: test", "name: ../test", r"name: found the text '\.\./test'; accepted: letters"),
        ("name: fields", "name: news", r"mine\.yaml:\d+: train\[1\]\.name: the name 'news' is given twice in train"),
        ("name: test", "name: dev", r"mine\.yaml:\d+: tests\[0\]\.name: found 'dev', a name of the development set"),
        ("order: [de, en]", "order: [de, de]", r"order: found de, de"),
        ("path: packed", "format: rar\n      path: packed", r"format: unknown format 'rar'"),
        ("path: packed/mine.zip", "format: zip", r"found none of url, parts, path"),
        ("title: A corpus", "title: &x A", r"anchors"),
        ("title: A corpus", "title: [", r"mine\.yaml:\d+: malformed YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'multi3k'; did you mean 'multi30k'\?"):
        load_task("multi3k")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such task file"):
        load_task("nowhere.yaml")


def test_title_and_licence_are_one_line_without_escape_codes(tmp_path: Path) -> None:
    text = GOOD.replace("title: A corpus", 'title: "A\\n# corpus\\e[31m"')
    (tmp_path / "own.yaml").write_text(text.replace("licence: CC0", "licence: >\n  CC0\n  of 2024"), "utf-8")
    task = load_task(str(tmp_path / "own.yaml"))
    assert (task.title, task.licence) == ("A # corpus [31m", "CC0 of 2024")


def test_a_file_in_place_of_a_name_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(GOOD, "utf-8")
    with pytest.raises(ConfigError, match=r"unknown task 'mine'; for the file write mine\.yaml"):
        load_task("mine")


@pytest.mark.parametrize("key", ["dev", "tests"])
def test_a_task_without_sets_gets_a_hint(tmp_path: Path, key: str) -> None:
    (tmp_path / "own.yaml").write_text(
        "".join(
            f"{name}: [{{name: x, files: {{en: a, de: b}}}}]\n" for name in ("train", "dev", "tests") if name != key
        )
        + "languages: [en, de]\n"
    )
    with pytest.raises(ConfigError, match=rf"own\.yaml:1: {key} is missing; docs/tutorial\.md shows"):
        load_task(str(tmp_path / "own.yaml"))


def test_tasks_are_found_where_pip_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in {sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")}:
        shelf = tmp_path / scheme / "share/nmt_rela/tasks"
        shelf.mkdir(parents=True)
        (shelf / f"own-{scheme}.yaml").write_text(GOOD, "utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path / scheme))
    for scheme in (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")):
        assert load_task(f"own-{scheme}").title == "A corpus"


def test_paths_of_text_are_relative_to_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD, "utf-8")
    monkeypatch.chdir(tmp_path)
    (location,) = load_task("mine.yaml").dev[0].sides["en"].archive.locations
    assert location.path == tmp_path / "dev.en"


@pytest.mark.parametrize(
    ("name", "archive_format"),
    [("a.tar.gz", "tar.gz"), ("a.tgz", "tgz"), ("a.en.gz", "gz"), ("tar.gz.txt", "plain"), ("a", "plain")],
)
def test_formats_are_known_by_the_file_name(name: str, archive_format: str) -> None:
    assert archive_format_of(name) == archive_format
