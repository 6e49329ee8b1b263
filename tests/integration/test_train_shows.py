"""What nmt-train shows: lines in a log, a bar on a terminal, the learning curve, and the last words."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import pty
import re
import shlex
import signal
import struct
import sys
import termios
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from nmt_rela.analysis import learning_curve
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import train
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.training import metric_logger
from nmt_rela.training.trainer_state import TrainerState
from nmt_rela.training.training_progress import TrainingProgress
from nmt_rela.training.validation import Validator
from tests.digits import TINY, write_digits

SETTINGS = [
    *TINY,
    "training.update_tokens=256",
    "training.max_updates=12",
    "training.validate_every=6",
    "training.save_every=6",
    "training.validation_decode_sentences=2",
    "training.checkpoint_metric=loss",
]
UPDATE = re.compile(
    r"\d\d:\d\d:\d\d update (\d+)/12  epoch \d+\.\d  loss \d+\.\d{4}  [\d,]+ tokens/s  after \d+ s, \d+ s left"
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(metric_logger, "_FIRST_DRAWING", 0.0)  # a curve even of a second's training
    return write_digits(tmp_path, reverse=False, pairs=100)


def train_to(config: Path, *more: str) -> RunDirectory:
    assert train.main(["--config", str(config), *SETTINGS, *more]) == 0
    return RunDirectory(config.parent / "run")


def test_a_log_shows_early_that_the_run_lives_and_ends_with_the_next_commands(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_to(config)
    assert run.learning_curve.read_bytes().startswith(b"\x89PNG")
    log = capsys.readouterr().err
    lines = log.splitlines()
    assert [int(found[1]) for line in lines if (found := UPDATE.fullmatch(line))] == [1, 2, 5, 6, 10, 12]
    assert "finished at update 12 after" in log
    assert ": training.max_updates is reached\n" in log
    assert re.search(rf"best validation: loss \d\.\d\d at update (6|12), checkpoint {run.path}/best\n", log)
    assert f"learning curve: {run.learning_curve}\n" in log
    commands = [shlex.split(line) for line in lines[lines.index(next(x for x in lines if x.endswith("next:"))) + 1 :]]
    assert [(words[0], words[1:3]) for words in commands] == [
        (name, ["--model", str(run.path)]) for name in ("nmt-average", "nmt-evaluate", "nmt-translate", "nmt-analyze")
    ]
    assert not any(">" in words for words in commands)  # nothing of the user's is overwritten


@pytest.mark.parametrize(
    ("settings", "status", "last_words"),
    [
        (["training.max_hours=1e-9"], 0, "stopped at update 1 after .*: training.max_hours is over; the same command"),
        (["training.max_epochs=1"], 0, r"finished at update \d+ after .*: training.max_epochs is reached"),
        (["training.learning_rate=0", "training.patience=1"], 0, "finished at update 12 after .*: early stop, 1 valid"),
        (["training.save_every=3"], 143, "stopped at update 2 after .*: SIGTERM; the same command continues the run"),
    ],
)
def test_the_log_says_why_training_ended(
    config: Path,
    settings: list[str],
    status: int,
    last_words: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if status == 143:
        updates = itertools.count(1)
        hook = register_optimizer_step_post_hook(lambda *_: next(updates) == 2 and signal.raise_signal(signal.SIGTERM))
        request.addfinalizer(hook.remove)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        assert train.main(["--config", str(config), *SETTINGS, "training.max_updates=99", *settings]) == status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert re.search(rf"^[0-9:]{{8}} {last_words}", capsys.readouterr().err, flags=re.MULTILINE)


def test_times_are_recorded_and_add_up_over_starts(config: Path) -> None:
    first = train_to(config, "--quiet").read_metrics()
    records = train_to(config, "--quiet", "training.max_updates=18").read_metrics()
    assert records[: len(first)] == first
    for name in ("time", "elapsed"):
        assert (values := [record[name] for record in records]) == sorted(values)
    assert 0 < first[-1]["elapsed"] < records[-1]["elapsed"] <= records[-1]["time"] - first[0]["time"] + 60


def shown_on_a_terminal(config: Path, columns: int) -> str:
    """What a terminal of this width gets; the validation makes a library warn."""
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    if (pid := os.fork()) == 0:
        status = 99
        try:
            os.dup2(end, 2)
            sys.stderr = open(2, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            for is_captured in (False, True):  # pytest has taken the warnings
                logging.captureWarnings(is_captured)
            real = Validator.validate

            def validate(*args: Any, **more: Any) -> Any:
                warnings.warn("a library warns", stacklevel=1)
                return real(*args, **more)

            Validator.validate = validate  # type: ignore[method-assign]
            status = train.main(["--config", str(config), *SETTINGS])
        finally:
            os._exit(status)
    os.close(end)
    parts = []
    with contextlib.suppress(OSError):  # Linux raises it at the end
        while part := os.read(main, 65536):
            parts.append(part)
    os.close(main)
    assert os.waitpid(pid, 0)[1] == 0
    return b"".join(parts).decode("utf-8").replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [100, 0])  # a terminal may not know its width
def test_a_terminal_has_a_bar_that_messages_do_not_tear(config: Path, columns: int) -> None:
    shown = shown_on_a_terminal(config, columns)
    bars = [state for state in re.split(r"[\r\n]", shown) if state.startswith("training")]
    assert re.search(r"training +\d+%\|.*\| \d+/12, epoch \d\.\d, loss \d\.\d\d, [\d,]+ tokens/s, after \d", bars[-1])
    assert not UPDATE.search(shown)
    assert "update 10/12" in (config.parent / "run/train.log").read_text()
    messages = [line.rsplit("\r", 1)[-1].rstrip() for line in shown.split("\n")]  # what is seen in the end
    for message in (r".* warning: .*UserWarning: a library warns", "[0-9:]{8} update 6  dev.*", "[0-9:]{8} finished.*"):
        assert any(re.fullmatch(message, line) for line in messages), message
    assert not any("training " in line and "update" in line for line in messages)


def test_a_line_fits_in_a_terminal_and_knows_the_end_by_epochs(caplog: pytest.LogCaptureFixture) -> None:
    settings = TrainingConfig(max_updates=300_000, max_epochs=30)
    state = TrainerState(update=130_000, epoch=12, next_update_in_epoch=10_000, elapsed=11_500.0)
    caplog.set_level(logging.INFO, logger="nmt_rela")
    with TrainingProgress(settings, state) as progress:
        progress.begin_epoch(20_000)  # 12.5 of 30 epochs are done
        progress.advance()
        progress.show({"target_tokens_per_second": 115_000.0, "loss": 2.13456})
        progress.begin_epoch(8_000)
        progress.show({"target_tokens_per_second": 115_000.0, "loss": 2.13456})
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("update 130,000/300,000  epoch 12.5  loss 2.1346  115,000 tokens/s  after 3.2 h, ")
    assert second.startswith("update 130,000/264,000  ")
    assert len("12:30:59 " + first) <= 101


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "it needs matplotlib; run: pip install 'nmt_rela[analysis]'"),
        ("broken", "cannot be written (no ink)"),
    ],
)
def test_a_learning_curve_never_ends_a_run(
    config: Path, fault: str, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def draw(*_: object, **__: object) -> None:
        raise ValueError("no ink")

    if fault == "missing":
        monkeypatch.setattr(metric_logger, "find_spec", lambda name: None)
    monkeypatch.setattr(learning_curve.plots, "curves", draw)
    caplog.set_level(logging.INFO, logger="nmt_rela")
    run = train_to(config)
    assert caplog.text.count(message) == 1
    assert not run.learning_curve.exists()
