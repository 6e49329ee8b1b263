"""The tables of a GPU's measurements: from a report of `make gpu-check` to a section of docs/performance.md."""

from __future__ import annotations

from typing import Any

import pytest
from tools.gpu_tables import BEGIN, END, PAGE, newest_report, render, replace_section

DEVICE = {
    "device": "a GPU", "python": "3.12.3", "torch": "2.11.0", "triton": "3.6.0", "cudnn": 91900,
    "copy_tb_per_second": 3.01, "matmul_tflops": {"8192 × 8192 × 8192": 780.4},
    "fused_attention": {
        "without cuDNN": {"seconds_new_new_seen": [0.002, 0.001, 0.0005], "dropped": 0.1002},
        "with cuDNN": {"error": "refused"},
    },
}  # fmt: skip
SPEED = {"tokens_per_second": 600_000.4, "lowest": 590_000.0, "highest": 610_000.0, "ratio": 1.0}
TRAINING = {
    "update_tokens": 25_000, "max_batch_tokens": 54_000, "precision": "bfloat16", "matmul_gflops": 780_400.0,
    "rows": [{"attention": "softmax", **SPEED, "matmul_fraction": 0.4}],
}  # fmt: skip
DECODING = {
    "sentences": 2000,
    "throughput": [
        {
            "subject": "softmax bf16", "beam": 4, "batch_tokens": 16_000, "sentences_per_second": 2500.2,
            "tokens_per_second": 70_000.0, "ratio": 1.0, "memory_read_fraction": 0.25,
        }
    ],
    "latency": [{"subject": "softmax bf16", "beam": 4, "p50_ms": 40.04, "p95_ms": 50.0}],
}  # fmt: skip
ATTENTION = {
    "settings": {
        "causal": True, "dropout": 0.1, "dtype": "bfloat16", "heads": 8, "width": 64, "tokens": 16_384
    },
    "rows": [
        {"variant": "sdpa", "length": 1024, "milliseconds": 2.0, "against_sdpa": 1.0},
        {"variant": "rela-g", "length": 1024, "milliseconds": 1.5, "against_sdpa": 0.75},
        {"variant": "sdpa", "length": 2048, "milliseconds": 4.0, "against_sdpa": 1.0},
    ],
}  # fmt: skip


def report(**results: Any) -> dict[str, Any]:
    stages = {name.replace("_", " "): {"status": "passed", "result": result} for name, result in results.items()}
    return {"date": "2027-01-31", "file": "h100.json", "left_out": {}, "stages": stages}


def test_without_a_report_the_section_says_that_nothing_is_measured() -> None:
    assert render(None).startswith("Nothing is measured on a GPU yet.")


@pytest.mark.parametrize(
    ("stage", "result", "lines"),
    [
        (
            "device", DEVICE,
            [
                "a GPU, Python 3.12.3, torch 2.11.0, Triton 3.6.0, cuDNN 91900. `make gpu-check`, 2027-01-31, "
                "[h100.json](measurements/h100.json).",
                "| memory copy, bytes read and written | 3.01 TB/s |",
                "| bf16 matmul, 8192 × 8192 × 8192 | 780 TFLOP/s |",
                "| without cuDNN | 2.0 | 1.0 | 0.5 | 10.0 % |",
                "| with cuDNN | raises an error |  |  |  |",
            ],
        ),
        (
            "kernels against reference",
            {"rela-g, bfloat16": None, "rela-g, float32": "errs", "loss, bfloat16": None, "loss, float32": None},
            ["|  | bfloat16 | float32 |", "| rela-g | agrees | errs |", "| loss | agrees | agrees |"],
        ),
        (
            "demo softmax", {"updates": 1600, "tests": {"test": {"bleu": 95.38}}},
            ["| BLEU, one seed | softmax |", "| demo corpus, 1,600 updates | 95.4 |"],
        ),
        ("training speed", TRAINING, ["| softmax | 600,000 (590,000–610,000) | 1.00 | 40 % |"]),
        ("decoding speed", DECODING, ["| softmax bf16 | 4 | 16,000 | 2,500 | 70,000 | 1.00 | 25 % | 40.0 |"]),
        ("attention", ATTENTION, ["| sdpa | 2.00 (1.00) | 4.00 (1.00) |", "| rela-g | 1.50 (0.75) |  |"]),
    ],
)  # fmt: skip
def test_a_stage_has_its_table(stage: str, result: Any, lines: list[str]) -> None:
    section = render(report(**{stage: result})).splitlines()
    assert [line for line in lines if line not in section] == []
    assert "1 of 1 stages passed." in section[1]


def test_stages_that_have_not_passed_are_named() -> None:
    found = report(device=None, attention=ATTENTION)
    found["stages"]["device"]["status"] = "timed out"
    found["left_out"] = {"multi30k": "it is not here"}
    section = render(found)
    assert "1 of 2 stages passed. The others: device (timed out); multi30k (left out: it is not here)." in section
    assert "### Attention alone" in section
    assert "### Ceilings" not in section


def test_a_kernel_that_was_not_used_is_named() -> None:
    kernels = {"sdpa": "used", "triton": "Triton is not installed"}
    section = render(report(device={**DEVICE, "kernels": kernels}))
    assert "The reference computes what triton would: Triton is not installed." in section
    assert "what sdpa would" not in section


def test_only_the_section_between_the_markers_changes() -> None:
    page = f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    new = replace_section(page, "new\n")
    assert new == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replace_section(new, "new\n") == new


def test_the_page_shows_the_newest_report() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert replace_section(page, render(newest_report())) == page, "docs/performance.md is out of date: make docs"
