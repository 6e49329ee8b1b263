"""Word links of training pairs, from the task file to the heads that have learned them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from own_text import decoded, settings, write

from nmt_rela.commands import train
from nmt_rela.config.loader import load_config
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.generation.alignment import default_alignment_heads
from nmt_rela.preparation.pipeline import prepare
from nmt_rela.utils.errors import DataError
from tests.digits import TINY, write_digits

PAIRS = [
    ("ein kleines haus", "a small house", "0-0 1-1 2-2"),
    ("", "nothing", ""),
    ("ein kleines haus", "a small house", "0-0"),  # a duplicate
    ("zehn\xa0tausend euro \u200b", "ten thousand euros", "0-0 0p1 1-2"),
    ("wort " * 30, "word " * 30, "0-0"),  # too long
    ("der hund schläft", "the dog sleeps", "0-0 1-1 2-2"),
    ("gute nacht", "good night", ""),
]


def own_links(directory: Path, *, languages: str = "[de, en]", more: str = "") -> Path:
    """A task with two training sources, of which one has links, and a development and a test set."""
    for side, language in enumerate(("de", "en")):
        write(directory / f"linked.{language}", [pair[side] for pair in PAIRS])
        write(directory / f"plain.{language}", [f"{language} satz eins", f"{language} satz zwei"])
    write(directory / "linked.align.gz", [pair[2] for pair in PAIRS])
    task = directory / "mine.yaml"
    sources = "\n".join(f"{key}: [{{name: {key}, files: {{de: plain.de, en: plain.en}}}}]" for key in ("dev", "tests"))
    task.write_text(
        f"languages: [de, en]\ntrain:\n  - {{name: plain, files: {{de: plain.de, en: plain.en}}}}\n"
        "  - name: linked\n    files: {de: linked.de, en: linked.en}\n"
        f"    alignments: {{file: linked.align.gz, order: {languages}}}\n{more}{sources}\n",
        "utf-8",
    )
    return task


def links_of(prepared: PreparedData) -> dict[str, list[tuple[int, int]]]:
    assert prepared.links is not None
    dataset = ParallelDataset(prepared.links)
    numbers = [
        list(zip(dataset.sources[i][:-1].tolist(), dataset.targets[i][:-1].tolist(), strict=True))
        for i in range(len(dataset))
    ]
    return {source: links for (source, _), links in zip(decoded(prepared), numbers, strict=True)}


@pytest.mark.parametrize("way", ["drop", "truncate"])
@pytest.mark.parametrize("source", ["de", "en"])
def test_links_follow_cleaning(tmp_path: Path, source: str, way: str) -> None:
    languages = {"source_language": source, "target_language": "en" if source == "de" else "de"}
    task = own_links(tmp_path)
    prepared = prepare(settings(task, tmp_path / "out", max_length=25, on_overlength=way, **languages))
    found = list(links_of(prepared).values())
    expected = [[], [], [(0, 0), (1, 1), (2, 2)], [(0, 0), (1, 0), (2, 2)], [(0, 0)], [(0, 0), (1, 1), (2, 2)], []]
    if way == "drop":
        del expected[4]
    if source == "en":
        expected = [sorted((j, i) for i, j in links) for links in expected]
    assert found == expected
    assert prepared.counts["sources"]["linked"]["kept"] == len(expected) - 2


def test_a_tag_is_a_word_that_links_count(tmp_path: Path) -> None:
    prepared = prepare(settings(own_links(tmp_path, more="    tag: <bt>\n"), tmp_path / "out"))
    assert links_of(prepared)["<bt> ein kleines haus"] == [(1, 0), (2, 1), (3, 2)]


def test_in_a_language_without_spaces_links_count_characters(tmp_path: Path) -> None:
    task = own_links(tmp_path)
    write(tmp_path / "linked.de", ["我爱 你 abc", *[f"我{n}" for n in range(6)]])
    write(tmp_path / "linked.align.gz", ["0-0 2-1 3-2", *["1-0"] * 3, *[""] * 3])
    task.write_text(task.read_text("utf-8").replace("{de:", "{zh:").replace("[de,", "[zh,"), "utf-8")
    prepared = prepare(settings(task, tmp_path / "out", source_language="zh", target_language="en"))
    assert links_of(prepared)["我爱 你 abc"] == [(0, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    ("line", "links", "message"),
    [
        (4, "0-0 3-1", r"source 'linked': .*linked\.align\.gz:4: a link of source word 3 .* below 3 and 3"),
        (1, "0-0 1:1", r"linked\.align\.gz:1: found '1:1'; accepted: i-j"),
        (8, "0-0", r"source 'linked': .*linked\.align\.gz: 8 lines of links for 7 pairs; accepted: one line per pair"),
    ],
)
def test_links_that_do_not_fit_are_named_by_line(tmp_path: Path, line: int, links: str, message: str) -> None:
    lines = [pair[2] for pair in PAIRS]
    lines[line - 1 : line] = [links]
    task = own_links(tmp_path)
    write(tmp_path / "linked.align.gz", lines)
    with pytest.raises(DataError, match=message):
        prepare(settings(task, tmp_path / "out"))
    (tmp_path / "linked.align.gz").unlink()
    with pytest.raises(DataError, match=r"source 'linked': .*linked\.align\.gz: .*; paths start from the task file"):
        prepare(settings(task, tmp_path / "out"))


GUIDED = "training.guided_alignment.weight=0.5"


@pytest.mark.parametrize(
    ("spoil", "overrides", "message"),
    [
        (
            lambda d: write_digits(d, reverse=False, pairs=50),
            [GUIDED],
            "training.guided_alignment.weight: no training source of {d}/digits.yaml has word links",
        ),
        (lambda d: None, [GUIDED, "training.guided_alignment.layer=2"], "layer: found 2; accepted: 0 to 1 (model.dec"),
        (lambda d: None, [GUIDED, "training.guided_alignment.heads=5"], "heads: found 5; accepted: 1 to 4 (model.num"),
        (lambda d: None, [GUIDED, "training.guided_alignment.head=1"], "head: unknown key; did you mean 'heads'?"),
        (lambda d: None, ["training.guided_alignment=0.1"], "guided_alignment: expected a section of keys"),
        (
            lambda d: (d / "train.align").write_text("0-0 9-9\n" * 50),
            [GUIDED],
            "train.align:1: a link of source word 9 and target word 9; accepted: below ",
        ),
        (lambda d: (d / "train.align").write_text("0p0\n" * 50), [GUIDED], "weight: no training pair has a sure link"),
    ],
)
def test_guidance_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object], overrides: list[str], message: str,
) -> None:  # fmt: skip
    config = write_digits(tmp_path, reverse=False, pairs=50, links=True)
    spoil(tmp_path)
    assert train.main(["--config", str(config), "--quiet", *overrides]) == 2
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert message.format(d=tmp_path) in last
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_continued_with_other_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_digits(tmp_path, reverse=False, pairs=50, links=True)
    arguments = ["--config", str(config), "--quiet", *TINY, GUIDED, "training.validation_decode_sentences=0"]
    arguments += ["training.checkpoint_metric=loss"]
    assert train.main([*arguments, "training.max_updates=1"]) == 0
    (tmp_path / "train.align").write_text("0-0\n" * 50)
    assert train.main([*arguments, "training.max_updates=2"]) == 2
    assert "was trained on another alignment than is prepared now" in capsys.readouterr().err


def test_alignments_are_read_from_the_guided_heads(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=False, pairs=50, links=True)
    assert default_alignment_heads(load_config(config)) == (1, 4)
    assert default_alignment_heads(load_config(config, [GUIDED])) == (1, 1)
    more = ["training.guided_alignment.layer=0", "training.guided_alignment.heads=2"]
    assert default_alignment_heads(load_config(config, [GUIDED, *more])) == (0, 2)
