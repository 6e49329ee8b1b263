"""Chosen metrics, from the settings to the scores: nmt-train, nmt-evaluate, the checkpoint that is best."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu.metrics import TER
from toy_translator import toy_run
from translating import LINES

from nmt_rela.checkpoints.checkpoint import load_state
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import evaluate, train
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import EvaluationConfig
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics import comet
from nmt_rela.training.validation import ValidationResult, Validator
from tests import fake_comet
from tests.digits import TINY, write_digits

FAST = [*TINY, "training.update_tokens=256", "training.validate_every=1", "training.save_every=1", "--quiet"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_digits(tmp_path, reverse=False, pairs=100)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(toy_run(tmp_path / "toy"))
    for name, lines in (("source", LINES[:3]), ("reference", LINES[1:4]), ("other", LINES[:3])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return run


def trained(config: Path, updates: int, *settings: str) -> RunDirectory:
    assert train.main(["--config", str(config), *FAST, f"training.max_updates={updates}", *settings]) == 0
    return RunDirectory(config.parent / "run")


def evaluated(run: RunDirectory, *arguments: str, reference: Iterable[str] = ("reference",)) -> dict[str, Any]:
    texts = [f"--source={run.path.parent / 'source'}", *(f"--reference={run.path.parent / name}" for name in reference)]
    assert evaluate.main(["--model", str(run.path), *texts, "--device=cpu", "--quiet", *arguments]) == 0
    (entry,) = json.loads((run.path / "evaluation/last/scores.json").read_text(encoding="utf-8"))
    return entry


def validations(monkeypatch: pytest.MonkeyPatch, **values: list[float]) -> None:
    """Let the validations of this test, one after another, have these results."""
    results = iter([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)])

    def validate(*_: object, **__: object) -> ValidationResult:
        return ValidationResult({"loss": 1.0, "perplexity": 1.0} | next(results), ([], [], []))

    monkeypatch.setattr(Validator, "validate", validate)


def best(run: RunDirectory) -> str:
    return run.checkpoint("best").resolve().name


@pytest.mark.parametrize(
    ("metric", "values"), [("loss", [3.0, 2.0, 4.0]), ("ter", [60.0, 40.0, 50.0]), ("chrf++", [10.0, 30.0, 20.0])]
)
def test_the_best_has_the_lowest_loss_or_ter_or_the_highest_other_score(
    config: Path, monkeypatch: pytest.MonkeyPatch, metric: str, values: list[float]
) -> None:
    validations(monkeypatch, **{metric: values})
    run = trained(config, 9, f"training.checkpoint_metric={metric}", "training.patience=1")
    assert best(run) == "step_00000002"
    assert run.checkpoint("last").resolve().name == "step_00000003"  # patience counts from the best


def test_another_metric_on_resuming_ranks_the_checkpoints_anew(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validations(monkeypatch, bleu=[20.0, 30.0, 10.0, 15.0, 35.0], ter=[40.0, 60.0, 50.0, 45.0, 55.0])
    assert best(trained(config, 3)) == "step_00000002"
    by_ter = trained(config, 4, "training.checkpoint_metric=ter", "training.patience=2")
    assert best(by_ter) == "step_00000001"
    progress = load_state(by_ter.checkpoint("last"))["progress"]
    assert (progress["best_score"], progress["validations_since_best"]) == (-40.0, 1)
    assert best(trained(config, 5, "training.checkpoint_metric=bleu")) == "step_00000005"


def test_validation_has_the_metrics_of_the_settings_and_that_of_the_best(config: Path) -> None:
    run = trained(config, 1, "evaluation.metrics=[chrf]", "training.checkpoint_metric=ter")
    (record,) = [record for record in run.read_metrics() if record["event"] == "validation"]
    assert {"chrf", "ter", "length_ratio"} <= set(record)
    assert "bleu" not in record


def test_comet_that_is_not_installed_is_found_before_anything_is_prepared(
    config: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comet, "find_spec", lambda _: None)
    config.write_text(config.read_text(encoding="utf-8") + "evaluation:\n  metrics: [bleu, comet]\n", encoding="utf-8")
    line = len(config.read_text(encoding="utf-8").splitlines())
    assert train.main(["--config", str(config), *FAST]) == 2
    assert capsys.readouterr().err == (
        f"nmt-train: error: {config}:{line}: evaluation.metrics: 'comet' is not installed (pip install unbabel-comet); "
        "accepted without it: bleu, chrf, chrf++, ter\n"
    )
    assert not (config.parent / "prepared").exists()
    settings = ["evaluation.metrics=[bleu]", "training.checkpoint_metric=comet"]
    assert train.main(["--config", str(config), *FAST, *settings]) == 2
    assert "training.checkpoint_metric: 'comet' is not installed" in capsys.readouterr().err
    text = run.path.parent / "source"
    given = ["--model", str(run.path), f"--source={text}", f"--reference={text}", "--metrics=bleu,comet"]
    assert evaluate.main(given) == 2
    assert "--metrics: 'comet' is not installed (pip install unbabel-comet)" in capsys.readouterr().err


def test_comet_scores_sources_translations_and_every_reference(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_comet.install(run.path.parent / "site", monkeypatch)
    entry = evaluated(run, "--metrics=comet", "--comet-model=Unbabel/XCOMET-XL", reference=("reference", "other"))
    fake = importlib.import_module("comet")
    translations = (run.path / "evaluation/last/source.txt").read_text(encoding="utf-8").splitlines()
    pairs = [
        (translation, reference)
        for lines in (LINES[1:4], LINES[:3])
        for translation, reference in zip(translations, lines, strict=True)
    ]
    assert entry["comet"] == pytest.approx(sum(fake.word_overlap(*pair) for pair in pairs) / len(pairs))
    assert entry["comet_signature"] == "COMET|model:Unbabel/XCOMET-XL|nrefs:2|version:2.2.7"
    assert fake.calls == ["/cache/Unbabel/XCOMET-XL/checkpoints/model.ckpt", (0, None)]
    assert f"{entry['comet_signature']} = {entry['comet']:.4f}\n" in capsys.readouterr().out
    comet.comet_score(["a"], ["a"], [["a"]], model="Unbabel/XCOMET-XL", device=torch.device("cuda:1"))
    assert fake.calls[-1] == (1, [1])
    given = ["--model", str(run.path), f"--source={run.path.parent / 'source'}", "--metrics=comet"]
    given += [f"--reference={run.path.parent / 'source'}"]
    assert evaluate.main([*given, "--comet-model=wmt22"]) == 2
    assert "evaluation.comet_model: 'wmt22' cannot be loaded (KeyError: " in capsys.readouterr().err


def test_training_validates_by_comet(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_comet.install(config.parent / "site", monkeypatch)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    run = trained(config, 2, "training.checkpoint_metric=comet")
    records = [record for record in run.read_metrics() if record["event"] == "validation"]
    assert load_state(run.checkpoint("best"))["validation"]["comet"] == max(record["comet"] for record in records)
    assert sys.modules["comet"].calls.count("/cache/Unbabel/wmt22-comet-da/checkpoints/model.ckpt") == 1
    assert logging.getLogger().handlers == []  # or every line of the log would be there twice


def test_one_more_metric_needs_no_translating(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluated(run)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("translated again")

    with monkeypatch.context() as patch:
        patch.setattr(Translator, "translate", forbidden)
        entry = evaluated(run, "--metrics=ter")
        assert {name: entry[name] for name in first} == first
        translations = (run.path / "evaluation/last/source.txt").read_text(encoding="utf-8").splitlines()
        assert entry["ter"] == pytest.approx(TER().corpus_score(translations, [LINES[1:4]]).score)
        assert "| source | last | 3 |" in (card := (run.path / "README.md").read_text(encoding="utf-8"))
        assert f"| {entry['bleu']:.2f} | {entry['chrf']:.2f} | {entry['ter']:.2f} |" in card
        evaluated(run, "--tokenizer=char")
        other = evaluated(run, "--metrics=chrf++", reference=("other",))
        assert not {"bleu", "ter"} & set(other)  # they were of another reference


@pytest.mark.parametrize("changed", ["source", "evaluation/last/source.txt"])
def test_other_text_is_translated_again(run: RunDirectory, changed: str) -> None:
    evaluated(run)
    expected = (run.path / "evaluation/last/source.txt").read_bytes()
    file = run.path.parent / changed if changed == "source" else run.path / changed
    file.write_text("".join(f"{line}\n" for line in LINES[4:7]), encoding="utf-8")
    evaluated(run, "--metrics=ter")
    assert ((run.path / "evaluation/last/source.txt").read_bytes() == expected) == (changed != "source")


def test_the_run_says_which_metrics_and_the_option_overrides_it(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = replace(run.config(), evaluation=EvaluationConfig(metrics=("ter", "chrf++")))
    run.config_file.write_text(config_to_yaml(chosen), encoding="utf-8")
    assert not {"bleu", "chrf"} & set(evaluated(run))
    assert [line.split("|")[0].strip() for line in capsys.readouterr().out.splitlines()[1:]] == ["chrF2++", "TER"]
    assert evaluate.main(["--model", str(run.path), "--metrics=bleu,chr"]) == 2
    assert "--metrics: found 'chr'; did you mean 'chrf'?" in capsys.readouterr().err
