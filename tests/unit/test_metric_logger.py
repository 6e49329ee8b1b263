"""The records of a run."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.training.metric_logger import MetricLogger
from nmt_rela.training.trainer_state import TrainerState


def test_a_continued_run_drops_later_and_truncated_records(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    lines = [json.dumps({"event": "train", "update": update}) for update in (1, 2, 3)]
    # A full disk cuts a line off, the next record lands behind it; then a kill.
    run.metrics.write_text(f"{lines[0]}\n{lines[1][:9]}{lines[1]}\n{lines[1]}\n{lines[2]}\n{lines[2][:5]}")
    MetricLogger(run, update=2, validated=0, elapsed=float).close()
    assert run.metrics.read_text() == f"{lines[0]}\n{lines[1]}\n"


def test_a_validation_after_the_last_checkpoint_is_dropped(tmp_path: Path) -> None:
    """It was made up for after a stop, recorded, and killed before it was saved: it will be made again."""
    run = RunDirectory(tmp_path)
    events = [("train", 2), ("validation", 2), ("train", 4), ("validation", 4)]
    lines = [json.dumps({"event": event, "update": update}) for event, update in events]
    run.metrics.write_text("".join(f"{line}\n" for line in lines))
    MetricLogger(run, update=4, validated=2, elapsed=float).close()
    assert run.metrics.read_text().splitlines() == lines[:3]


def test_records_are_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    logger = MetricLogger(RunDirectory(tmp_path), update=0, validated=0, elapsed=float)
    logger.log("train", 1, {"loss": math.nan, "gradient_norm": math.inf, "epoch": 1})
    logger.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert abs(record.pop("time") - time.time()) < 60
    assert record == {"event": "train", "update": 1, "elapsed": 0.0, "loss": None, "gradient_norm": None, "epoch": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_records_and_one_warning_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDirectory(tmp_path)
    logger = MetricLogger(run, update=0, validated=0, elapsed=float)
    run.metrics.symlink_to("/dev/full")
    for update in (1, 2):
        logger.log("train", update, {"loss": 1.0})
    run.samples.write_text("a file where the directory should be")
    logger.log_samples(2, ["a"], ["b"], ["c"])
    logger.close()
    assert caplog.text.count("metrics.jsonl cannot be written") == 1
    assert caplog.text.count("samples cannot be written") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path)
    run.log.symlink_to("/dev/full")
    logger = MetricLogger(run, update=0, validated=0, elapsed=float)
    for _ in range(9):
        logging.getLogger("nmt_rela.training").warning("a message")
    logger.close()
    assert caplog.text.count("train.log cannot be written ([Errno 28] No space left on device)") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_reason_of_an_end_is_named() -> None:
    settings = replace(TrainingConfig(), max_updates=100, max_epochs=3, patience=2)
    for state, reason in (
        (TrainerState(update=100), "training.max_updates is reached"),
        (TrainerState(update=9, epoch=3), "training.max_epochs is reached"),
        (
            TrainerState(validations_since_best=2),
            "early stop, 2 validations without a better score (training.patience)",
        ),
        (TrainerState(update=9), None),
    ):
        assert state.end_reason(settings) == reason
