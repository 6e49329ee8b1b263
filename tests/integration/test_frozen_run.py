"""A run of the present format, made once and never again: every later version loads it and translates the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt_rela import Translator
from nmt_rela.checkpoints.checkpoint import load_state, load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.training.optimizer import build_optimizer
from nmt_rela.training.trainer_state import TrainerState

#: A copier of digits (softmax, rela-i and rela-g attention), trained for 1,500 updates.
RUN = Path(__file__).resolve().parent.parent / "frozen" / "format_1"
#: The last line is longer than what it was trained on: it is cut in just this way, by a wide margin.
LINES = {
    "8 7 7 8 9 3": ("8 7 7 8 9 3", -0.51857),
    "7 4 2": ("7 4 2", -0.34572),
    "9 3 8 3 4 7": ("9 3 8 3 4 7", -0.51024),
    "": ("", 0.0),
    "1 2 3 4 5 6 7 8 9 0 1 2": ("1 2 3 4 5 6 7", -0.84060),
}


@pytest.mark.parametrize("checkpoint", [None, "step_00001500"])
def test_the_frozen_run_gives_its_recorded_translations(checkpoint: str | None) -> None:
    translations = Translator.load(RUN, checkpoint=checkpoint, device="cpu").translate(list(LINES))
    assert [translation.text for translation in translations] == [text for text, _ in LINES.values()]
    scores = [translation.hypotheses[0].score for translation in translations]
    assert scores == pytest.approx([score for _, score in LINES.values()], abs=1e-3)


def test_training_resumes_from_the_frozen_run() -> None:
    run = RunDirectory(RUN)
    checkpoint = run.checkpoint()
    training = load_tensors(checkpoint, "training")
    optimizer = build_optimizer(run.load_model().parameters(), run.config().training)
    optimizer.load_state_dict(training["optimizer"])
    assert {"scaler", "metrics", "consecutive_nonfinite"} <= training.keys()
    progress = TrainerState(**load_state(checkpoint)["progress"])
    assert (progress.update, progress.epoch, progress.last_validated_update) == (1_500, 51, 1_500)
