"""Reproduction of a table: its runs, its steps, what runs again, and the report."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, TER
from sacrebleu.significance import PairedTest

from nmt_rela.attention.variants import ATTENTION_VARIANTS as ALL_VARIANTS
from nmt_rela.checkpoints.checkpoint import weights_checksum, write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import reproduce
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.generation.evaluation import read_entries
from nmt_rela.metrics.translation import sacrebleu_metrics
from nmt_rela.reporting.pages import table, to_html
from nmt_rela.reporting.significance import paired_bootstrap
from nmt_rela.reproduction import experiment as experiments
from nmt_rela.reproduction import paper_results, report, steps
from nmt_rela.reproduction.experiment import (
    ATTENTION_VARIANTS,
    SCALES,
    TASKS,
    Experiment,
    existing_experiment,
    new_experiment,
)
from nmt_rela.reproduction.report import write_report
from nmt_rela.reproduction.runner import download_size
from nmt_rela.reproduction.steps import read_records, steps_of, write_record
from nmt_rela.utils import shipped
from nmt_rela.utils.errors import ConfigError
from tests.integration.small_run import write_run


def experiment(
    task: str = "wmt14",
    *,
    scale: str = "paper",
    variants: tuple[str, ...] = ATTENTION_VARIANTS,
    seeds: tuple[int, ...] = (),
    overrides: tuple[str, ...] = (),
    output: Path | None = None,
) -> Experiment:
    return new_experiment(task, scale=scale, variants=variants, seeds=seeds, overrides=overrides, output=output)


def report_text(directory: Path) -> str:
    """The report without the spaces that align its tables."""
    return re.sub(" +", " ", (directory / "report.md").read_text("utf-8"))


def existing(directory: Path, task: str = "demo", output: Path | None = None) -> Experiment:
    return existing_experiment(task, directory, variants=ATTENTION_VARIANTS, seeds=[], output=output)


def test_variants_scales_and_tasks_are_the_same_everywhere() -> None:
    assert set(ATTENTION_VARIANTS) == set(ALL_VARIANTS)
    assert ATTENTION_VARIANTS == reproduce._VARIANTS
    assert set(SCALES) == set(reproduce._SCALES)
    results = (
        *paper_results.BLEU.values(),
        paper_results.TRAINING_SPEED,
        paper_results.DECODING_SPEED,
        *paper_results.AER.values(),
    )
    assert all(set(result) <= set(ATTENTION_VARIANTS) for result in results)
    assert all(len(layers) == 6 for row in paper_results.AER.values() for layers in row.values())
    assert set(paper_results.BLEU) <= set(TASKS)


@pytest.mark.parametrize("task", sorted(set(TASKS.values())))
@pytest.mark.parametrize("scale", SCALES)
def test_every_task_loads_at_every_scale(task: str, scale: str) -> None:
    found = experiment(task, scale=scale)
    assert [run.attention for run in found.runs] == list(ATTENTION_VARIANTS)
    assert {run.config.model.attention for run in found.runs} == set(ATTENTION_VARIANTS)
    assert len({run.path for run in found.runs}) == 5


def test_configurations_of_an_installed_wheel_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "shipped_directories", lambda *_: [tmp_path / "checkout", tmp_path / "share"])
    with pytest.raises(
        ConfigError, match=r"unknown configuration 'wmt14-en-de'; there is none in .*checkout or .*share"
    ):
        experiments.config_of_task("wmt14")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "wmt14-en-de.yaml").write_text("")
    assert experiments.config_of_task("wmt14").resolve() == tmp_path / "share" / "wmt14-en-de.yaml"


def test_the_paper_scale_is_the_paper() -> None:
    """Transformer base, 25k tokens an update, 300,000 updates, the average of the last five, beam 4, alpha 0.6."""
    config = experiment().runs[0].config
    assert (config.model.encoder_layers, config.model.d_model, config.model.num_heads) == (6, 512, 8)
    assert config.training.update_tokens == 25_000
    assert (config.training.max_updates, config.training.keep_last_checkpoints) == (300_000, 5)
    assert (config.decoding.beam_size, config.decoding.length_penalty) == (4, 0.6)


def test_the_order_of_the_steps() -> None:
    names = [step.name for step in steps_of(experiment(variants=("softmax", "rela-g"), seeds=(1, 2)))]
    assert names[0] == "prepare"
    for run in ("softmax.seed1", "rela-g.seed1", "softmax.seed2", "rela-g.seed2"):
        positions = [names.index(f"{verb} {run}") for verb in ("train", "average", "translate")]
        assert positions == [positions[0], positions[0] + 1, positions[0] + 2]
    assert names[-4:] == ["analyse seed1", "analyse seed2", "training speed", "decoding speed"]


def test_skipped_parts_have_no_step() -> None:
    parts = frozenset({"speed", "analysis", "significance"})
    reduced = dataclasses.replace(experiment(variants=("softmax",)), skip=parts)
    assert [step.name.split()[0] for step in steps_of(reduced)] == ["prepare", "train", "average", "translate"]


def test_a_step_runs_again_when_its_inputs_change(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    found = existing(tmp_path / "runs", output=tmp_path / "report")
    step = next(step for step in steps_of(found) if step.name.startswith("analyse"))
    recorded = {step.name: {"fingerprint": step.fingerprint()}}
    assert not step.is_up_to_date(recorded), "its output does not exist"
    for path in step.outputs:
        path.mkdir(parents=True)
    assert step.is_up_to_date(recorded)
    assert not step.is_up_to_date({})
    write_checkpoint(run.checkpoints / "step_1", tensors={}, state={"other": 1})
    assert not step.is_up_to_date(recorded)


def test_damaged_records_are_ignored(tmp_path: Path) -> None:
    assert read_records(tmp_path / "steps") == {}
    record = {"name": "train a/b", "command": "x", "fingerprint": "y", "seconds": 40.0, "finished": "2026-01-01"}
    write_record(tmp_path / "steps", record)
    assert read_records(tmp_path / "steps") == {"train a/b": record}
    next((tmp_path / "steps").glob("*.json")).write_text("cut off")
    assert read_records(tmp_path / "steps") == {}


def test_only_runs_of_the_task_are_reported(tmp_path: Path) -> None:
    for name, attention in (("b", "softmax"), ("a", "rela-g")):
        write_run(tmp_path / name, attention=attention)
    other = write_run(tmp_path / "other")
    text = (
        other.config_file.read_text("utf-8")
        .replace("source_language: en", "source_language: de")
        .replace("target_language: de", "target_language: en")
    )
    other.config_file.write_text(text, "utf-8")
    (tmp_path / "notes").mkdir()
    found = existing(tmp_path)
    assert [(run.name, run.attention) for run in found.runs] == [("b", "softmax"), ("a", "rela-g")]
    assert not any(step.name.startswith("train ") for step in steps_of(found))
    assert found.output == tmp_path / "report"
    with pytest.raises(ConfigError, match="found no run of multi30k, en to de"):
        existing(tmp_path, "multi30k")


def test_a_report_names_what_is_missing(tmp_path: Path) -> None:
    """A report can be written at any time, and makes up no results."""
    write_run(tmp_path / "one", attention="rela-g")
    found = existing(tmp_path, output=tmp_path / "report")
    write_report(found)
    text = report_text(tmp_path / "report")
    assert "| rela-g | 1 | 1 | – | – | – | – | – | – |" in text
    for line in (
        "Not measured.", "* Not run: softmax, sparsemax, entmax15, rela-i.", "* one: not translated yet.",
        "* one: training is not finished; the newest checkpoint is of update 1.",
        "Without a softmax run there is no baseline.",
    ):  # fmt: skip
        assert line in text
    assert json.loads((tmp_path / "report" / "results.json").read_text("utf-8"))["runs"][0]["scores"] == {}


def write_scores(report: Path, run: RunDirectory, bleu: float, **more: object) -> None:
    scores = {"bleu_precisions": [], "bleu_signature": "", "chrf": 1.0, "chrf_signature": "", "sentences": 3}
    weights = weights_checksum(run.checkpoint())
    entry = {"name": "test", "weights": weights, "bleu": bleu, "length_ratio": 1.0, **scores, **more}
    file = report / "evaluation" / run.path.name / "scores.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([*read_entries(file), entry]), "utf-8")


def test_a_report_reads_the_scores_of_the_present_weights(tmp_path: Path) -> None:
    run, report = write_run(tmp_path / "one"), tmp_path / "report"
    write_scores(report, run, 30.0)
    write_scores(report, run, 20.0, name="old", weights="another")
    write_report(existing(tmp_path, output=report))
    found = json.loads((report / "results.json").read_text("utf-8"))["runs"][0]["scores"]
    assert {name: entry["bleu"] for name, entry in found.items()} == {"test": 30.0}


def test_a_report_has_the_metrics_of_the_scores(tmp_path: Path) -> None:
    run, report = write_run(tmp_path / "one"), tmp_path / "report"
    more = {"ter": 61.26, "ter_signature": "TER|x", "comet": 0.81234, "comet_signature": "COMET|y"}
    write_scores(report, run, 30.0, **more)
    write_report(existing(tmp_path, output=report))
    text = re.sub(" +", " ", (report / "report.md").read_text("utf-8"))
    columns = "BLEU | 95 % interval | p | chrF2 | 95 % interval | p | TER | 95 % interval | p | COMET | length |"
    assert columns in text
    assert "| 30.00 | – | – | 1.00 | – | – | 61.26 | – | – | 0.8123 | 1.000 |" in text
    assert "`TER|x`, `COMET|y`." in text


def test_a_report_writes_nothing_into_runs_that_it_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    for step in steps_of(existing(tmp_path, output=tmp_path / "report")):
        assert not step.name.startswith(("train ", "average "))
        assert not any(path.is_relative_to(tmp_path / "one") for path in step.outputs)
        if step.name.startswith(("translate ", "analyse ")):
            assert "--output" in step.command()


def test_runs_of_other_settings_are_not_pooled(tmp_path: Path) -> None:
    report = tmp_path / "report"
    for name, seed, width in (("a", 1, 32), ("b", 2, 32), ("c", 3, 64)):
        run = write_run(tmp_path / name)
        text = run.config_file.read_text("utf-8").replace("ffn_dim: 48", f"ffn_dim: {width}")
        run.config_file.write_text(text.replace("seed: 1\n", f"seed: {seed}\n"), "utf-8")
        write_scores(report, run, 10.0 * seed)
    write_report(existing(tmp_path, output=report))
    text = report_text(report)
    assert "| rela-g (a, b) | 2 | 15.00 | 7.07 |" in text
    assert "| rela-g (c) | 1 | 30.00 | – |" in text


def test_a_ratio_of_speeds_has_its_spread_or_is_none(tmp_path: Path) -> None:
    for name, attention in (("a", "softmax"), ("b", "rela-g")):
        write_run(tmp_path / name, attention=attention)
    found, file = existing(tmp_path, output=tmp_path / "report"), tmp_path / "report" / "speed" / "training.json"
    file.parent.mkdir(parents=True)
    document = {"device": "cpu", "threads": 2, "torch": "2", "precision": "float32"}
    for speed, cell in (
        ((5222.0, 736.0, 9718.0), "| rela-g | 5,222 | not measurable |"),
        ((900.0, 890.0, 910.0), "| rela-g | 900 | 0.90 (0.88–0.92) |"),
    ):
        rows = [
            {"attention": attention, "tokens_per_second": median, "lowest": lowest, "highest": highest}
            for attention, (median, lowest, highest) in (("softmax", (1000.0, 990.0, 1010.0)), ("rela-g", speed))
        ]
        file.write_text(json.dumps(document | {"rows": rows}), "utf-8")
        write_report(found)
        assert cell in report_text(tmp_path / "report")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wmt41"], "task: unknown 'wmt41'; did you mean 'wmt14'?"),
        (["demo", "--attention", "softmax,rela"], "--attention: found 'rela'; did you mean 'rela-"),
        (["demo", "--seeds", "1,two"], "--seeds: expected a whole number, found the text 'two'"),
        (["demo", "model.head=4"], "model.head: unknown key"),
        (["demo", "--runs", "nowhere"], "--runs nowhere: found no run of demo, en to de"),
        (["demo", "--runs", "nowhere", "model.num_heads=4"], "--runs reports on runs as they are"),
        (["demo", "--gold-reversed"], "--gold-reversed needs --gold"),
        (["demo", "--attention", ""], "--attention: found an empty list"),
        (["demo", "run_dir=x"], "run_dir: nmt-reproduce sets it for each run; accepted: --output DIR"),
        (["demo", "model.attention=softmax"], "model.attention: nmt-reproduce sets it for each run"),
        (["demo", "--seeds", "1", "training.seed=2"], "training.seed and --seeds exclude each other"),
        (["demo", "--output", "README.md"], "--output: README.md cannot be written: not a directory"),
        (["demo", "--plan", "--gold", "nowhere.en", "nowhere.de", "links"], "--gold: nowhere.en: no such file"),
        (["demo", "--report", "--output", "nowhere"], "--report: nowhere holds no run"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("links", "message"),
    [("0-0", "1 lines of links for 2 pairs"), ("0-0\n0-1", "links:2: a link of source word 0 and")],
)
def test_gold_links_are_read_before_any_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], links: str, message: str
) -> None:
    for name, text in {"en": "a\nb", "de": "A\nB", "links": links}.items():
        (tmp_path / name).write_text(text, "utf-8")
    gold = [str(tmp_path / name) for name in ("en", "de", "links")]
    assert reproduce.main(["demo", "--plan", "--output", str(tmp_path / "out"), "--gold", *gold]) == 2
    assert message in capsys.readouterr().err


def test_finished_runs_are_not_taken_for_runs_of_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["demo", "--attention", "softmax", "--output", str(tmp_path), "--plan"]
    (made,) = experiment("demo", variants=("softmax",), output=tmp_path).runs
    write_checkpoint(made.path / "checkpoints" / "step_00000030", tensors={}, state={})
    (made.path / "config.yaml").write_text(config_to_yaml(made.config), "utf-8")
    for setting, message in (
        ("training.max_updates=20", f"found 20, but {made.path} has done 30 updates; accepted: 30 or more"),
        ("model.dropout=0.5", "other settings: model.dropout (0.1 → 0.5)"),
    ):
        assert reproduce.main([*command, setting]) == 2
        assert message in capsys.readouterr().err
    assert reproduce.main([*command, "training.max_updates=4000", "decoding.beam_size=2"]) == 0


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_is_passed_on_to_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], quiet: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["demo", "--scale", "smoke", "--attention", "softmax", "--output", "out"]
    monkeypatch.setattr(reproduce.sys, "executable", "echo")
    reproduce.main([*options, *["--quiet"] * quiet])
    started = [line for line in capfd.readouterr().out.splitlines() if line.startswith("-m nmt_rela.commands.")]
    assert {line.endswith(" --quiet") for line in started} == {quiet}


def test_the_plan_lists_commands_and_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download_size(experiment()) == (5, 658_092_427 + 918_734_483 + 80_462_375, 2)
    assert download_size(experiment("demo"))[0] == 0
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["wmt14", "--plan", "--attention", "softmax", "--output", "out"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_plan_is_a_list_of_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert reproduce.main(["wmt14", "--plan", "--attention", "softmax", "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"^  2\. train softmax.seed1234\n     \$ nmt-train --config \S+ model.attention=softmax", text, re.M
    )
    assert "downloads: 1.7 GB (2 of 5 archives have no published size and are not counted)" in text


def test_p_values_are_those_of_sacrebleu() -> None:
    references = [f"the cat number {i} sat on the mat near the old door" for i in range(60)]
    first = [line.replace("sat on", "sits on") if i % 3 else line for i, line in enumerate(references)]
    second = [line.replace("old door", "door") if i % 4 else line for i, line in enumerate(references)]
    systems, metrics = [("a", first), ("b", second)], sacrebleu_metrics(["bleu", "ter"], "13a")
    found = paired_bootstrap(systems, [references], metrics)
    oracles = {"BLEU": BLEU(), "TER": TER()}
    expected = PairedTest(systems, oracles, [references], test_type="bs", n_samples=1000)()[1]
    alone = paired_bootstrap(systems[:1], [references], metrics)
    for name in ("bleu", "ter"):
        (_, result), b = expected[name.upper()], found["b"][name]
        assert found["a"][name]["p"] is None
        assert b["p"] == pytest.approx(result.p_value)
        assert 0.0 < float(b["p"] or 0.0) <= 1.0
        assert (b["low"], b["high"]) == pytest.approx((result.mean - result.ci, result.mean + result.ci))
        assert alone["a"][name] == pytest.approx(found["a"][name])
    assert paired_bootstrap(systems, [references], sacrebleu_metrics(["comet"], "13a")) == {"a": {}, "b": {}}


def test_the_html_copy_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p.png").write_bytes(b"png")
    text = "\n\n".join(
        [
            "# A < B",
            "See `x<y>` and [this](https://example.org).",
            table(["name", "n"], [["a|b", "1"]]),
            "![P](sub/p.png)",
        ]
    )
    assert "| name |   n |\n| ---- | --: |\n| a\\|b |   1 |" in text
    page = to_html(text + "\n<script>alert(1)</script>\n\nof <i>run</i>\n", title="A < B", directory=tmp_path)
    assert "<script>" not in page
    assert "of &lt;i&gt;run&lt;/i&gt;" in page
    assert "<title>A &lt; B</title>" in page
    assert "<code>x&lt;y&gt;</code>" in page
    assert "<td>a|b</td>" in page
    assert "data:image/png;base64,cG5n" in page
    assert not re.search(r'(src|href)="(?!data:|https://example.org)', page)


def test_an_installed_package_reports_that_speed_needs_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (report, steps):
        monkeypatch.setattr(module, "BENCHMARKS", tmp_path / "site-packages" / "scripts" / "benchmarks")
    write_run(tmp_path / "one")
    found = existing(tmp_path, output=tmp_path / "report")
    assert not any(step.name.endswith("speed") for step in steps_of(found))
    write_report(found)
    text = report_text(tmp_path / "report")
    assert (
        "Not measured: the benchmarks are part of a checkout (scripts/benchmarks), not of an installed package." in text
    )
