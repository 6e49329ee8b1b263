"""The scores that a run keeps: by test set, settings and weights."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from toy_translator import toy_run
from translating import LINES

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import average, evaluate
from nmt_rela.generation.evaluation import stored_scores


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(toy_run(tmp_path / "toy"))
    for name in ("first", "second"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in LINES[:3]), encoding="utf-8")
    return run


def evaluated(run: RunDirectory, text: str, *arguments: str, status: int = 0) -> None:
    given = [f"--source={run.path.parent / text}", f"--reference={run.path.parent / text}", "--device=cpu", "--quiet"]
    assert evaluate.main(["--model", str(run.path), *given, *arguments]) == status


def stored(run: RunDirectory) -> dict[tuple[str, str], Any]:
    return {(place, entry["name"]): entry for place, entry in stored_scores(run)}


def test_scores_of_other_test_sets_and_settings_stay(run: RunDirectory) -> None:
    evaluated(run, "first")
    evaluated(run, "second")
    own = stored(run)
    assert set(own) == {("last", "first"), ("last", "second")}
    evaluated(run, "first", "--beam-size", "1", "--precision", "bf16", "--tokenizer", "char")
    evaluated(run, "first", "--beam-size", "4", "--tokenizer", "13a")  # the run's own
    found = stored(run)
    other = ("last/beam_size=1,precision=bf16,tokenizer=char", "first")
    assert set(found) == {*own, other}
    assert (found[other]["settings"]["beam_size"], found[other]["settings"]["precision"]) == (1, "bf16")
    assert found["last", "second"] == own["last", "second"]
    assert own["last", "first"]["checkpoint"] == [str(run.checkpoint("last").resolve())]


def test_odd_characters_change_neither_translations_nor_scores(run: RunDirectory) -> None:
    odd = "".join(line.replace(" ", "\u2028").replace(".", "\u200b.") + "\x00\n" for line in LINES[:3])
    (run.path.parent / "odd").write_text(odd, encoding="utf-8")
    for name in ("first", "odd"):
        evaluated(run, name)
    first, second = (stored(run)["last", name] for name in ("first", "odd"))
    assert (first["bleu"], first["chrf"]) == (second["bleu"], second["chrf"])
    texts = [(run.path / f"evaluation/last/{name}.txt").read_text("utf-8") for name in ("first", "odd")]
    assert texts[0] == texts[1]


def test_text_with_the_name_of_a_set_of_the_task_is_refused(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    own = run.path.parent / "dev"
    own.write_text("a\n", encoding="utf-8")
    given = ["--model", str(run.path), f"--source={own}", f"--reference={own}", "--device=cpu", "--quiet"]
    assert evaluate.main(given) == 2
    assert f"--source: found {own}, which has the name of a set of the run's task" in capsys.readouterr().err
    assert evaluate.main([*given, f"--output={run.path.parent / 'elsewhere'}"]) == 0
    assert stored(run) == {}


@pytest.mark.parametrize("content", ['[{"name": "first"', '[1, {"name": "first"}]'])
def test_a_damaged_record_of_scores_is_kept_aside_or_read_as_far_as_it_goes(run: RunDirectory, content: str) -> None:
    file = run.path / "evaluation/last/scores.json"
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    evaluated(run, "second")
    assert set(stored(run)) == {("last", "second")}
    if not content.endswith("]"):
        assert file.with_name("scores.json.damaged").read_text(encoding="utf-8") == content


def test_scores_of_an_earlier_average_are_not_those_of_the_average(run: RunDirectory) -> None:
    assert average.main(["--model", str(run.path), "--last", "2", "--quiet"]) == 0
    evaluated(run, "first")
    card = run.path / "README.md"
    assert "| first | average |" in card.read_text(encoding="utf-8")
    assert average.main(["--model", str(run.path), "--last", "1", "--quiet"]) == 0
    assert stored(run) == {}
    assert "| first | average |" not in card.read_text(encoding="utf-8")
    evaluated(run, "second")
    (entry,) = json.loads((run.path / "evaluation/average/scores.json").read_text(encoding="utf-8"))
    assert entry["name"] == "second"


def test_the_directory_of_an_ensemble_names_its_members(run: RunDirectory, tmp_path: Path) -> None:
    for name in ("two", "three"):
        evaluated(run, "first", "--model", str(toy_run(tmp_path / name, seed=9)))
    found = {path.parent.name for path in run.path.glob("evaluation/*/scores.json")}
    assert found == {"last+two.last", "last+three.last"}


def test_scores_that_cannot_be_stored_are_printed_with_a_warning(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "evaluation").write_text("in the way")
    evaluated(run, "first")
    printed = capsys.readouterr()
    assert "BLEU|" in printed.out
    assert "not stored" in printed.err


def test_a_full_disk_below_output_is_an_error(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _lines: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("nmt_rela.generation.evaluation.write_lines", full)
    evaluated(run, "first", "--output", str(run.path.parent / "out"), status=2)
    assert capsys.readouterr().err.rstrip().endswith("out/first.txt: no space left on device")


def test_texts_of_one_name_are_kept_apart(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, lines in (("other", 1), ("another/other", 2)):
        (run.path.parent / folder).mkdir(parents=True)
        (run.path.parent / folder / "first").write_text("Hund\n" * lines)
    for name in ("first", "other/first", "another/other/first") * 2:
        evaluated(run, name)
    found = stored(run)
    below = "last/text=other_first"
    assert {place: entry["sentences"] for (place, _), entry in found.items()} == {
        "last": 3, below: 1, f"{below}/text=other_first": 2,
    }  # fmt: skip
    monkeypatch.chdir(run.path.parent)  # another way to write the same path
    assert evaluate.main(["--model=toy", "--source=first", "--reference=second", "--device=cpu"]) == 0
    assert set(stored(run)) == set(found)


def test_several_references_are_scored_as_in_sacrebleu(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(run, "first", f"--reference={run.path.parent / 'second'}", "--json")
    (entry,) = json.loads(capsys.readouterr().out)
    assert "nrefs:2" in entry["bleu_signature"]
    (run.path.parent / "short").write_text("Hund\n")
    given = ["--source", "--reference", "--reference"]
    files = [str(run.path.parent / name) for name in ("first", "first", "short")]
    pairs = [text for pair in zip(given, files, strict=True) for text in pair]
    assert evaluate.main(["--model", str(run.path), *pairs, "--device=cpu"]) == 2
    assert f"{run.path.parent / 'short'}: 1 lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", __file__], "--source needs --reference"),
        (
            ["--source", __file__, "--reference", __file__, "--test-set", "dev"],
            "--source and --test-set exclude each other",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--model", "nowhere", *arguments]) == 2
    assert message in capsys.readouterr().err
