"""On a device without numbers, what would fail or wait on a GPU fails here: no GPU is needed to find it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent.parent

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA devices of its own"),
]


@pytest.mark.parametrize(
    "part",
    ["train", "generate", "detect_faults", "train_without_triton", pytest.param("measure", marks=pytest.mark.slow)],
)
def test_nothing_lies_on_the_wrong_device_and_no_step_waits(part: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "scripts/benchmarks"), *sys.path])
    line = [sys.executable, str(REPOSITORY / "tests/fake_cuda_run.py"), str(tmp_path), part]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
