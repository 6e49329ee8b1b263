"""The model card says what a run is, what it was trained on and how good it is, and never costs a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.export.model_card import CARD, write_model_card
from tests.integration.small_run import write_run


def card_of(run: RunDirectory) -> str:
    write_model_card(run)
    return (run.path / CARD).read_text(encoding="utf-8")


def test_a_card_without_scores_names_the_evaluating_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", attention="rela-i")
    card = card_of(run)
    assert "# the English-German demo corpus, en to de, rela-i" in card
    assert "nmt-translate --model mine < text.en" in card
    assert "None yet: `nmt-evaluate --model mine`" in card
    assert f"| fingerprint of the vocabulary | `{run.load_tokenizers().fingerprint}` |" in card
    assert "| licence of the text | MIT, as this package |" in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["language"] == ["en", "de"]


def test_scores_stand_with_their_signatures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    folder = run.path / "evaluation" / "average"
    folder.mkdir(parents=True)
    score = {"name": "news", "sentences": 1200, "bleu": 27.314, "chrf": 55.5, "bleu_signature": "BLEU|x"}
    (folder / "scores.json").write_text(json.dumps([{**score, "chrf_signature": "chrF2|y"}]), encoding="utf-8")
    card = card_of(run)
    assert "| news | average | 1,200 | 27.31 | 55.50 |" in card
    assert "`BLEU|x`, `chrF2|y`" in card


def test_a_run_copied_away_from_its_task_has_a_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    config = run.config()
    elsewhere = replace(config, data=replace(config.data, task=str(tmp_path / "gone/news.yaml")))
    run.config_file.write_text(config_to_yaml(elsewhere), encoding="utf-8")
    assert "see the task's own description" in card_of(run)


def test_a_card_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "mine")
    run.config_file.unlink()
    write_model_card(run)
    assert "the model card could not be written" in caplog.text
