"""nmt-compare: what runs have in common is compared, what they do not is said, and nothing is written into them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from nmt_rela.checkpoints.checkpoint import weights_checksum
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import compare
from nmt_rela.config.schema import EvaluationConfig, MetricName
from nmt_rela.generation.evaluation import store_evaluation
from nmt_rela.metrics.translation import compute_scores, sacrebleu_metrics
from nmt_rela.reporting.significance import paired_bootstrap
from tests.integration.small_run import write_run

REFERENCES = [f"the cat number {number} sat on the mat near the old door" for number in range(60)]
WORSE = [line.replace("sat on", "sits on") if i % 3 else line for i, line in enumerate(REFERENCES)]
BETTER = [line.replace("old door", "door") if i % 4 else line for i, line in enumerate(REFERENCES)]


def evaluate(
    run: RunDirectory, hypotheses: list[str], references: list[str], *metrics: MetricName, tokenizer: str = "13a"
) -> None:
    entry = {"name": "test", "source": "test.en", "seconds": 2.0, "weights": weights_checksum(run.checkpoint())}
    entry["references_sha256"] = hashlib.sha256("".join([tokenizer, *references]).encode()).hexdigest()
    settings = EvaluationConfig(metrics=metrics or ("bleu", "chrf"))
    entry |= compute_scores(hypotheses, references, settings, tokenizer=tokenizer)
    store_evaluation(run.path / "evaluation" / "last", hypotheses, [references], entry)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunDirectory, RunDirectory]:
    first, second = write_run(tmp_path / "first", attention="softmax"), write_run(tmp_path / "second", seed=2)
    for run, hypotheses in ((first, WORSE), (second, BETTER)):
        evaluate(run, hypotheses, REFERENCES)
        records = [
            {
                "event": "train",
                "update": 10,
                "time": 1.0,
                "elapsed": 30.0,
                "target_tokens_per_second": 1234.5,
                "loss": 4.0,
            },
            *({"event": "validation", "update": n, "loss": 3.0, "bleu": 7.0, "ter": 5.5 + n} for n in (10, 20)),
        ]
        run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return first, second


def compared(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert compare.main(["--quiet", *map(str, arguments)]) == status
    printed = capsys.readouterr()
    return re.sub(" +", " ", printed.out if status == 0 else printed.err)


def files_of(*runs: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for run in runs for path in run.path.rglob("*") if path.is_file()}


def test_runs_are_compared_and_stay_as_they_are(
    runs: tuple[RunDirectory, RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(*runs)
    text = compared(capsys, *(run.path for run in runs), "--output", tmp_path / "out")
    assert files_of(*runs) == before
    intervals = paired_bootstrap(
        [("first", WORSE), ("second", BETTER)], [REFERENCES], sacrebleu_metrics(["bleu", "chrf"], "13a")
    )
    for name, p in (("first", "–"), ("second", f"{intervals['second']['bleu']['p']:.3f}")):
        bleu = intervals[name]["bleu"]
        assert f"| {name} | last | {bleu['score']:.2f} | {bleu['low']:.2f}–{bleu['high']:.2f} | {p} |" in text
    assert "| first | softmax | 1 |" in text
    assert " 1,234 |" in text
    assert "| second | 20 | 3.00 | 7.00 | 25.50 |" in text
    assert "| `model.attention` | softmax | rela-g |\n" in text
    assert "run_dir" not in text
    assert re.sub(" +", " ", (tmp_path / "out/comparison.md").read_text("utf-8")) == text
    assert "data:image/png;base64," in (tmp_path / "out/comparison.html").read_text("utf-8")
    assert (tmp_path / "out/learning_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("other", ["references", "tokenizer"])
def test_scores_that_mean_something_else_are_not_compared(
    runs: tuple[RunDirectory, RunDirectory], other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if other == "references":
        evaluate(runs[1], BETTER, [f"{line} now" for line in REFERENCES])
    else:
        evaluate(runs[1], BETTER, REFERENCES, tokenizer="char")
    text = compared(capsys, *(run.path for run in runs))
    assert "Scores by different references, tokenizers or COMET models are not comparable: separate tables." in text
    assert len(re.findall(r"\| last \| \d+\.\d\d \| [\d.–]+ \| – \|", text)) == 2  # no p


def test_metrics_that_only_one_run_has_are_shown_and_the_others_compared(
    runs: tuple[RunDirectory, RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(runs[1], BETTER, REFERENCES, "chrf", "ter")
    text = compared(capsys, *(run.path for run in runs))
    assert "| run | checkpoint | BLEU | chrF2 | interval | p | TER | length | sentences/s |" in text
    assert re.search(
        r"\| second \| last \| – \| [\d.]+ \| [\d.]+–[\d.]+ \| 0\.\d+ \| [\d.]+ \| [\d.]+ \| 30\.0 \|", text
    )


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    runs: tuple[RunDirectory, RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = write_run(tmp_path / "third")
    (tmp_path / "first/evaluation/last/references/1/test.txt").unlink()  # as by an older version
    text = compared(capsys, *(run.path for run in runs), third.path)
    assert f"third: not evaluated yet; `nmt-evaluate --model {third.path}` does it." in text
    assert "Without scores of this set: third." in text
    assert "No intervals: translations or references are not stored" in text
    assert "# Comparison of first, second, third" in text


def test_runs_of_one_name_are_told_apart_by_their_paths(
    runs: tuple[RunDirectory, RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "elsewhere" / "first")
    assert f"# Comparison of {runs[0].path}, {other.path}\n" in compared(capsys, runs[0].path, other.path)


def test_what_is_no_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path}: not a run directory" in compared(capsys, tmp_path, status=2)
