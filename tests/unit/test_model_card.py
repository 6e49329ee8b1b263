"""The model card says what a run is, what it was trained on and how good it is, and never costs a run."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path

import pytest
import yaml

from nmt_rela.checkpoints.checkpoint import weights_checksum
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.export.model_card import CARD, write_model_card
from tests.integration.small_run import write_run


def card_of(run: RunDirectory) -> str:
    write_model_card(run)
    return (run.path / CARD).read_text(encoding="utf-8")


def write_environment(run: RunDirectory) -> None:
    data = {"title": "the English-German demo corpus", "licence": "MIT, as this package", "read": 1200, "kept": 1100}
    run.environment.write_text(json.dumps({"ranks": 1, "device": "cpu", "torch": "2", "data": data}), encoding="utf-8")


def test_a_card_without_scores_names_the_evaluating_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", attention="rela-i")
    write_environment(run)
    card = card_of(run)
    assert "# the English-German demo corpus, en to de, rela-i" in card
    assert "nmt-translate --model mine < text.en" in card
    assert "None yet: `nmt-evaluate --model mine`" in card
    assert f"| fingerprint of the vocabulary | `{run.load_tokenizers().fingerprint}` |" in card
    assert "| licence of the text | MIT, as this package |" in card
    assert "| pairs | 1,200 read, 1,100 kept |" in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["language"] == ["en", "de"]


def test_a_name_of_any_characters_is_quoted(tmp_path: Path) -> None:
    run = write_run(tmp_path / 'cost$\\bad$ "a" b')
    score = {"name": "a|b\n<c>", "sentences": 1, "bleu": 1.0, "bleu_signature": "BLEU|x"}
    score |= {"weights": weights_checksum(run.checkpoint("step_1"))}
    (run.path / "evaluation" / "step_1").mkdir(parents=True)
    (run.path / "evaluation" / "step_1" / "scores.json").write_text(json.dumps([score]), encoding="utf-8")
    card = card_of(run)
    (command,) = (shlex.split(line, comments=True) for line in card.splitlines() if line.startswith("nmt-translate"))
    assert command[2] == run.path.name
    (call,) = (line for line in card.splitlines() if "Translator.load(" in line)
    assert ast.literal_eval(call.partition("load(")[2][:-1]) == run.path.name
    assert "| a\\|b &lt;c> | step_1 | 1 | 1.00 |" in card


def test_scores_stand_with_their_signatures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    folder = run.path / "evaluation" / "step_1" / "beam_size=1"
    folder.mkdir(parents=True)
    score = {"name": "news", "sentences": 1200, "bleu": 27.314, "chrf": 55.5, "bleu_signature": "BLEU|x"}
    score |= {"chrf_signature": "chrF2|y", "weights": weights_checksum(run.checkpoint("step_1"))}
    (folder / "scores.json").write_text(json.dumps([score, {**score, "weights": "others"}]), encoding="utf-8")
    card = card_of(run)
    assert card.count("| news |") == 1
    assert "| news | step_1/beam_size=1 | 1,200 | 27.31 | 55.50 |" in card
    assert "`BLEU|x`, `chrF2|y`" in card


def test_a_run_without_an_environment_file_has_a_card(tmp_path: Path) -> None:
    card = card_of(write_run(tmp_path / "mine"))
    assert "# demo, en to de" in card
    assert "not stated by the task file" in card


def test_a_card_of_the_users_own_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "mine")
    card_of(run)
    assert "# demo" in card_of(run)
    (run.path / CARD).write_text("my notes", encoding="utf-8")
    assert card_of(run) == "my notes"
    assert "not written by nmt_rela; it stays" in caplog.text


def test_a_card_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "mine")
    run.config_file.unlink()
    write_model_card(run)
    assert "the model card could not be written" in caplog.text
