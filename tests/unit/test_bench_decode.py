"""The decoding benchmark runs, and its table has a row a kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts/bench_decode.py"


def test_a_tiny_benchmark(tmp_path: Path) -> None:
    size = "--sentences 10 --dimension 16 --feed-forward 16 --vocabulary 100 --layers 1 --length 4 --threads 1"
    work = "--rounds 1 --single 1 --batch-tokens 200 --beams 1 2 --kinds softmax rela-g"
    report = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), *size.split(), *work.split(), "--json", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert [(row["subject"], row["beam"]) for row in figures["throughput"]] == [
        ("softmax float32", 1), ("rela-g float32", 1), ("softmax float32", 2), ("rela-g float32", 2)
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 for row in figures["throughput"])
    assert len(figures["latency"]) == 4
    assert "rela-g" in result.stdout
