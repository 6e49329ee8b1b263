"""The counter of launches, on operators whose number and size are known; and a whole tiny update."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from count_launches import LaunchCounter
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton is not installed")


def test_views_are_free_and_an_expanded_dimension_is_read_once() -> None:
    counter = LaunchCounter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            counter(func, [x for x in args if isinstance(x, torch.Tensor)], [result])
            return result

    matrix, row = torch.ones(3, 4), torch.ones(1, 4)
    with Counting():
        _ = (matrix.t().view(4, 3) + row.expand(3, 4).t()) @ matrix
    assert counter.launches == {"add": 1, "mm": 1}
    assert counter.bytes == {"add": 4 * (12 + 4 + 12), "mm": 4 * (12 + 12 + 16)}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA devices of its own")
def test_more_tokens_move_more_and_launch_no_more(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts/benchmarks/count_launches.py"
    rows = []
    for tokens in (280, 560):
        line = [sys.executable, str(script), "--attention", "rela-g", "--tokens", str(tokens), "--vocabulary", "1000"]
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        subprocess.run([*line, "--json", str(tmp_path / "counts.json")], env=environment, check=True)
        rows += json.loads((tmp_path / "counts.json").read_text())["rows"]
    assert rows[0]["launches"] == rows[1]["launches"] > 500
    assert rows[0]["elementwise_gb"] < rows[1]["elementwise_gb"]
