"""A reproduction that is killed in each of its steps ends with the same results as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

COMMAND = [
    sys.executable, "-m", "nmt_rela.commands.reproduce", "demo",
    "--scale", "smoke", "--attention", "softmax,rela-g", "--skip", "speed",
    "--output", "out", "data.max_pairs_per_source=300", "data.vocabulary_size=200", "training.max_updates=10",
    "training.save_every=2", "training.validate_every=5",
]  # fmt: skip
STEPS = 8


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with open(log, "wb") as stream:
        return subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def results(folder: Path) -> dict[str, Any]:
    """The results without what depends on the machine's speed."""
    tree: dict[str, Any] = json.loads((folder / "out/results.json").read_bytes())
    for run in tree["runs"]:
        del run["tokens_per_second"], run["seconds"], run["environment"]
    for curve in tree["curves"].values():
        for point in curve:
            del point["time"], point["elapsed"]
    return tree


@pytest.mark.slow
def test_killed_in_every_step(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log = tmp_path / "log"
    undisturbed = start(whole, log)
    assert undisturbed.wait(timeout=1800) == 0, log.read_text("utf-8")
    assert f"[{STEPS}/{STEPS}]" in log.read_text("utf-8")

    chance = random.Random(8)
    for step in range(1, STEPS + 1):
        process = start(killed, log)
        while f"[{step}/{STEPS}]" not in log.read_text("utf-8"):
            assert process.poll() is None, log.read_text("utf-8")
            time.sleep(0.05)
        time.sleep(chance.random() * 3)
        process.send_signal(signal.SIGKILL)  # the next start waits until the command of this one has ended
        process.wait()
    process = start(killed, log)
    assert process.wait(timeout=1800) == 0, log.read_text("utf-8")
    assert results(killed) == results(whole)

    process = start(killed, log)
    assert process.wait(timeout=600) == 0
    text = log.read_text("utf-8")
    assert len(re.findall(r"done before", text)) == STEPS, "what is done is not done again"
