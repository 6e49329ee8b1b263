"""A reproduction stops when it is told to: no step is begun after the signal, and no command outlives its runner."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: Runs two steps. The first waits for the file ``go`` or for SIGTERM, and ends with status 0 either way.
RUNNER = """
import sys
from pathlib import Path
from nmt_rela.reproduction.experiment import new_experiment
from nmt_rela.reproduction.runner import run_steps
from nmt_rela.reproduction.steps import Step

def step(name):
    return Step(name=name, command=lambda: [f"{name}.py"], inputs=list, outputs=())

experiment = new_experiment(
    "demo", scale="smoke", variants=["softmax"], seeds=[], overrides=[], output=Path("out")
)
sys.exit(run_steps(experiment, [step("first"), step("second")]))
"""
FIRST = """
import signal, sys, time
from pathlib import Path

def save(*_):
    Path("saved").touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, save)
Path("started").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.01)


@pytest.fixture
def runner(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A runner in its first step, in a process group of its own: a signal to it does not reach the command."""
    (tmp_path / "first.py").write_text(FIRST)
    (tmp_path / "second.py").write_text("from pathlib import Path\nPath('second').touch()\n")
    process = subprocess.Popen([sys.executable, "-c", RUNNER], cwd=tmp_path, start_new_session=True)
    wait_for(tmp_path / "started")
    return process


def test_sigterm_reaches_the_command_and_ends_the_reproduction(runner: subprocess.Popen[bytes], tmp_path: Path) -> None:
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 143
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "second").exists()


def test_sigint_ends_the_reproduction_after_the_command(runner: subprocess.Popen[bytes], tmp_path: Path) -> None:
    runner.send_signal(signal.SIGINT)
    time.sleep(0.2)
    (tmp_path / "go").touch()
    assert runner.wait(60) == 130
    assert not (tmp_path / "second").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_the_command_of_a_killed_runner_saves_and_stops(runner: subprocess.Popen[bytes], tmp_path: Path) -> None:
    runner.kill()
    runner.wait(60)
    try:
        wait_for(tmp_path / "saved")
    finally:
        (tmp_path / "go").touch()
