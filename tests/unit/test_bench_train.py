"""The training benchmark: one row per subject, and the models of other libraries learn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines import OTHERS, PlainUpdates, installed
from harness import seconds_of

from nmt_rela.config.loader import config_from_yaml
from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import EOS, PAD, TokenizerPair
from tests.integration.own_text import own_task
from tests.integration.small_run import write_run

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts/benchmarks/bench_train.py"
SMALL = "model: {attention: softmax, encoder_layers: 1, decoder_layers: 1, d_model: 32, ffn_dim: 48, num_heads: 4"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> TokenizerPair:
    return write_run(tmp_path_factory.mktemp("runs") / "small").load_tokenizers()


def a_batch(tokenizers: TokenizerPair) -> Batch:
    """Sentences of several lengths to be copied."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, tokenizers.target.size, (12, 7), generator=generator)
    for row, length in enumerate(torch.randint(2, 7, (12,), generator=generator).tolist()):
        ids[row, length], ids[row, length + 1 :] = EOS, PAD
    positions = (ids != PAD).flatten().nonzero().squeeze(1)
    return Batch(
        source=ids, target=ids.clone(), target_positions=positions, indices=np.arange(12),
        source_tokens=len(positions), target_tokens=len(positions),
    )  # fmt: skip


@pytest.mark.parametrize("tied", ["all", "target", "none"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_learn(name: str, tied: str, tokenizers: TokenizerPair) -> None:
    if not installed(name):
        pytest.skip(f"the library of {name} is not installed")
    config = config_from_yaml(
        f"run_dir: none\ndata: {{task: demo, source_language: en, target_language: de}}\n"
        f"{SMALL}, tied_embeddings: {tied}}}",
        "small",
    )
    updates = PlainUpdates(name, config, tokenizers=tokenizers, device=torch.device("cpu"), precision=torch.float32)
    batch = a_batch(tokenizers)
    losses = [float(updates.step([batch])) for _ in range(150)]
    assert losses[0] == pytest.approx(math.log(tokenizers.target.size), rel=0.5)  # loss per token
    assert sum(losses[-10:]) / 10 < losses[0] - 0.3


def test_a_tiny_benchmark(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        f"run_dir: {tmp_path}/run\n{SMALL}}}\n"
        f"data: {{task: {own_task(tmp_path)}, source_language: de, target_language: en, vocabulary_size: 120, "
        f"data_dir: {tmp_path}}}\n"
        "training: {update_tokens: 128, precision: float32}\n",
        encoding="utf-8",
    )
    report = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--config", str(config), "--attention", "softmax", "rela-g", "--others"]
    command += ["--updates", "2", "--rounds", "2", "--json", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found, missing = [name for name in OTHERS if installed(name)], [name for name in OTHERS if not installed(name)]
    rows = json.loads(report.read_text(encoding="utf-8"))["rows"]
    assert [row["attention"] for row in rows] == ["softmax", "rela-g", *found]
    assert all(row["lowest"] <= row["tokens_per_second"] <= row["highest"] for row in rows)
    assert all(0 < row["matmul_fraction"] < 1 for row in rows)
    for name in missing:
        assert f"{name.split('.')[0]} is not installed: left out" in result.stderr
    too_many = subprocess.run([*command, "--rounds", "9999"], capture_output=True, text=True, check=False)
    assert too_many.returncode == 2
    assert "--updates times --rounds must not be more" in too_many.stderr.splitlines()[-1]
    assert [line.split()[0] for line in result.stdout.splitlines()[2:-1]] == [row["attention"] for row in rows]


def test_random_pairs_need_no_corpus(tmp_path: Path) -> None:
    config, report = tmp_path / "small.yaml", tmp_path / "figures.json"
    text = f"run_dir: {tmp_path}/run\n{SMALL}}}\ndata: {{task: none, source_language: a, target_language: b, "
    config.write_text(f"{text}vocabulary_size: 50}}\ntraining: {{update_tokens: 256}}\n", encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--config", str(config), "--attention", "rela-g", "--random-pairs", "200"]
    subprocess.run([*command, "--updates", "1", "--rounds", "2", "--json", str(report)], check=True)
    document = json.loads(report.read_text(encoding="utf-8"))
    assert [row["attention"] for row in document["rows"]] == ["rela-g"]
    assert document["update_tokens"] == 256


def test_a_gpu_is_timed_by_its_own_clock_over_calls_in_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            queue.append("event")

        def synchronize(self) -> None:
            queue.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 30.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: queue.append("wait"))
    seconds = seconds_of(lambda: queue.append("call"), torch.device("cuda"), calls=3)
    assert seconds == pytest.approx(0.01)
    assert queue == ["wait", "event", "call", "call", "call", "event", "wait"]
