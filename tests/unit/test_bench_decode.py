"""The decoding benchmark: one row per subject, and the report of a reproduction reads its document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory_bandwidth import weight_nbytes

from nmt_rela.data.tokenizer import BOS
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.transformer import Transformer
from nmt_rela.reproduction.experiment import ATTENTION_VARIANTS, existing_experiment
from nmt_rela.reproduction.report import write_report
from nmt_rela.reproduction.steps import speed_file
from tests.integration.small_run import write_run, write_text

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts/benchmarks/bench_decode.py"


def test_a_tiny_benchmark(tmp_path: Path) -> None:
    size = (
        "--pytorch --sentences 10 --dimension 16 --feed-forward 16 --vocabulary 100 --layers 1 --length 4 --threads 1"
    )
    work = "--rounds 1 --single 1 --batch-tokens 200 --beams 1 2 --attention rela-g"
    report = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), *size.split(), *work.split(), "--json", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert [(row["subject"], row["beam"]) for row in figures["throughput"]] == [
        (f"rela-g float32{decoder}", beam)
        for beam in (1, 2)
        for decoder in ("", " pytorch")
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 for row in figures["throughput"])
    assert len(figures["latency"]) == 4
    assert "rela-g" in result.stdout
    assert all(row["resident_mib"] > 50 for row in figures["throughput"])
    assert all(row["memory_read_fraction"] is None for row in figures["throughput"]) or torch.cuda.is_available()


def test_runs_can_be_forced_to_a_length(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", attention="rela-g")
    lines, _, _ = write_text(tmp_path)
    report = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--run", str(run.path), "--lines", str(lines), "--forced", "--length", "5"]
    command += ["--sentences", "3", "--beams", "1", "2", "--rounds", "1", "--single", "0", "--json", str(report)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(report.read_text(encoding="utf-8"))["throughput"]
    assert [row["tokens_per_second"] / row["sentences_per_second"] for row in rows] == pytest.approx([5, 5], rel=0.01)


def test_a_step_reads_weights_keys_and_values_once() -> None:
    dimension, inner, vocabulary, sentences, length, beams = 16, 24, 50, 3, 5, 2
    model = Transformer(
        vocabulary, vocabulary, attention="softmax", encoder_layers=1, decoder_layers=2, d_model=dimension,
        ffn_dim=inner, num_heads=4, tied_embeddings="all", norm_order="pre",
    ).eval()  # fmt: skip
    with torch.no_grad():
        source = torch.full((sentences, length), 7)
        state = IncrementalDecoder(model, model.encode(source), num_beams=beams, max_length=4)
        state.step(torch.full((sentences, beams), BOS))
    products = 6 * dimension * dimension + 2 * dimension * inner  # the keys and values of the source are there already
    biases = 6 * dimension + inner + dimension
    norms = 2 * dimension
    slots = 4 * beams  # room for four positions
    keys_and_values = 2 * sentences * (length + slots) * dimension
    numbers = 2 * (products + biases + 3 * norms + keys_and_values) + norms + vocabulary * dimension
    assert weight_nbytes(model) + state.cache_nbytes == 4 * numbers


@pytest.mark.gpu
def test_the_fraction_of_memory_reads_on_a_gpu(tmp_path: Path) -> None:
    report = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--device", "cuda", "--precision", "bf16"]
    command += ["--attention", "softmax", "rela-g"]
    command += ["--sentences", "64", "--rounds", "2", "--single", "0", "--beams", "4", "--json", str(report)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(report.read_text(encoding="utf-8"))["throughput"]
    assert len(rows) == 2
    assert all(0 < row["memory_read_fraction"] < 1 for row in rows)


def test_a_user_error_in_a_subject_process_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--run", str(tmp_path / "none"), "--lines", str(write_text(tmp_path)[0])]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"bench_decode: error: {tmp_path / 'none'}: not a run directory, it has no config.yaml"
    ]


def test_the_report_has_the_speed_of_its_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / attention, attention=attention) for attention in ("softmax", "rela-g")]
    found = existing_experiment("demo", tmp_path, variants=ATTENTION_VARIANTS, seeds=[], output=tmp_path / "report")
    output = speed_file(found, "decoding")
    output.parent.mkdir(parents=True)
    lines, _, _ = write_text(tmp_path)
    command = [sys.executable, str(SCRIPT), "--lines", str(lines), "--beams", "2", "--rounds", "1", "--single", "1"]
    command += [word for run in runs for word in ("--run", str(run.path))]
    subprocess.run([*command, "--json", str(output)], check=True, capture_output=True)
    assert [row["subject"] for row in json.loads(output.read_text("utf-8"))["latency"]] == [
        f"{run.path} float32" for run in runs
    ]
    write_report(found)
    rows = {
        cells[1]: cells
        for line in (found.output / "report.md").read_text("utf-8").split("## Speed")[1].split("\n## ")[0].splitlines()
        if line.startswith("|") and (cells := [cell.strip() for cell in line.split("|")])
    }
    assert rows["softmax"][6] == "1.00"
    assert float(rows["rela-g"][6].split()[0]) > 0  # its spread follows
    assert float(rows["rela-g"][5].replace(",", "")) > 0
