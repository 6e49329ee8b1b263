"""Reproducing a table: which runs there are, what is done again and what not, and what the report says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nmt_rela.attention.variants import ATTENTION_VARIANTS as ATTENTIONS
from nmt_rela.checkpoints.checkpoint import write_checkpoint
from nmt_rela.commands import reproduce
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.reproduction import cost_estimate, paper_results, runner, speed_probe
from nmt_rela.reproduction.experiment import (
    ATTENTION_VARIANTS,
    SCALES,
    TASKS,
    Experiment,
    adopted_experiment,
    new_experiment,
)
from nmt_rela.reproduction.markdown import Code, Figure, Heading, Paragraph, Table, to_html, to_markdown
from nmt_rela.reproduction.report import write_report
from nmt_rela.reproduction.runner import expected_seconds
from nmt_rela.reproduction.step_state import Journal
from nmt_rela.reproduction.steps import steps_of
from nmt_rela.utils.errors import ConfigError
from tests.integration.small_run import write_run


def experiment(
    task: str = "wmt14",
    *,
    scale: str = "paper",
    kinds: tuple[str, ...] = ATTENTION_VARIANTS,
    seeds: tuple[int, ...] = (),
    overrides: tuple[str, ...] = (),
    output: Path | None = None,
    gpus: int = 0,
) -> Experiment:
    return new_experiment(
        task, scale=scale, kinds=kinds, seeds=seeds, overrides=overrides, output=output, gpus=gpus
    )  # fmt: skip


def test_the_kinds_are_those_there_are() -> None:
    assert set(ATTENTION_VARIANTS) == set(ATTENTIONS)
    assert ATTENTION_VARIANTS == reproduce._KINDS
    assert set(SCALES) == set(reproduce._SCALES)
    figures = (
        *paper_results.BLEU.values(),
        paper_results.TRAINING_SPEED,
        paper_results.DECODING_SPEED,
        *paper_results.AER.values(),
    )
    assert all(set(figure) <= set(ATTENTION_VARIANTS) for figure in figures)
    assert all(len(layers) == 6 for row in paper_results.AER.values() for layers in row.values())
    assert set(paper_results.BLEU) <= set(TASKS)


@pytest.mark.parametrize("task", sorted(set(TASKS.values())))
@pytest.mark.parametrize("scale", SCALES)
def test_every_task_loads_at_every_scale(task: str, scale: str) -> None:
    found = experiment(task, scale=scale)
    assert [run.kind for run in found.runs] == list(ATTENTION_VARIANTS)
    assert {run.config.model.attention for run in found.runs} == set(ATTENTION_VARIANTS)
    assert len({run.path for run in found.runs}) == 5


def test_the_paper_scale_is_the_paper() -> None:
    """Transformer base, 25k tokens an update, 300,000 updates, the average of the last five, beam 4, alpha 0.6."""
    config = experiment().runs[0].config
    assert (config.model.encoder_layers, config.model.dimension, config.model.heads) == (6, 512, 8)
    assert config.training.accumulate * config.training.batch_tokens == 25_000
    assert (config.training.max_updates, config.training.keep_last_checkpoints) == (300_000, 5)
    assert (config.decoding.beam_size, config.decoding.length_penalty) == (4, 0.6)


@pytest.mark.parametrize(("gpus", "micro_batches"), [(0, 4), (1, 4), (2, 4), (3, 6), (4, 4), (6, 6), (8, 8)])
def test_all_gpus_share_an_update_of_the_same_size(gpus: int, micro_batches: int, tmp_path: Path) -> None:
    training = experiment(gpus=gpus, output=tmp_path).runs[0].config.training
    assert training.accumulate == micro_batches
    assert training.accumulate % max(gpus, 1) == 0
    assert 24_990 < training.accumulate * training.batch_tokens <= 25_000


def test_a_run_begun_on_other_gpus_keeps_its_micro_batches(tmp_path: Path) -> None:
    begun = experiment("demo", kinds=("softmax",), gpus=8, output=tmp_path, overrides=("training.accumulate=4",))
    (run,) = begun.runs
    run.path.mkdir()
    (run.path / "config.yaml").write_text(config_to_yaml(run.config), encoding="utf-8")
    again = experiment("demo", kinds=("softmax",), gpus=2, output=tmp_path, overrides=("training.accumulate=4",))
    assert again.runs[0].config.training == run.config.training


def test_steps_in_their_order() -> None:
    names = [step.name for step in steps_of(experiment(kinds=("softmax", "rela-g"), seeds=(1, 2)))]
    assert names[0] == "prepare"
    for run in ("softmax.seed1", "rela-g.seed1", "softmax.seed2", "rela-g.seed2"):
        places = [names.index(f"{verb} {run}") for verb in ("train", "average", "translate")]
        assert places == [places[0], places[0] + 1, places[0] + 2]
    rest = ["compare newstest2014 seed1", "analyse seed1", "compare newstest2014 seed2", "analyse seed2"]
    assert names[-6:] == [*rest, "training speed", "decoding speed"]


def test_what_is_not_wanted_is_left_out() -> None:
    reduced = dataclasses.replace(experiment(kinds=("softmax",)), skip=frozenset({"speed", "analysis", "significance"}))
    assert [step.group for step in steps_of(reduced)] == ["prepare", "train", "average", "translate"]


def test_a_step_is_done_again_when_what_it_reads_changes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    found = adopted_experiment(
        "demo", tmp_path / "runs", kinds=ATTENTION_VARIANTS, seeds=[], output=tmp_path / "report"
    )
    step = next(step for step in steps_of(found) if step.group == "average")
    recorded = step.fingerprint()
    assert not step.stands(recorded), "its output is not there"
    write_checkpoint(run.path / "average", tensors={}, state={})
    assert step.stands(recorded)
    (run.checkpoints / "step_1" / "manifest.json").write_text("{}")
    assert not step.stands(recorded)


def test_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note_unfinished("train a/b", 30.0)
    assert (journal.seconds_so_far("train a/b"), journal.record("train a/b")) == (30.0, None)
    journal.finish("train a/b", group="train", command="x", fingerprint="y", seconds=40.0)
    record = journal.record("train a/b")
    assert record is not None
    assert (record.fingerprint, record.seconds) == ("y", 40.0)
    assert journal.records() == [record]
    next(tmp_path.glob("*.json")).write_text("cut off")
    assert journal.record("train a/b") is None


def test_the_end_is_foretold_from_steps_like_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    steps = [step for step in steps_of(experiment(kinds=("softmax", "rela-g"))) if step.group in ("train", "average")]
    assert expected_seconds(steps, journal) == (0.0, True)
    journal.finish("train softmax.seed1234", group="train", command="", fingerprint="", seconds=100.0)
    journal.note_unfinished("train rela-g.seed1234", 30.0)
    training = [step for step in steps if step.group == "train"]
    assert expected_seconds(training[1:], journal) == (70.0, False)
    assert expected_seconds(steps[2:], journal) == (70.0, True)


def test_only_runs_of_the_task_are_adopted(tmp_path: Path) -> None:
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
    found = adopted_experiment("demo", tmp_path, kinds=ATTENTION_VARIANTS, seeds=[], output=None)
    assert [(run.name, run.kind) for run in found.runs] == [("b", "softmax"), ("a", "rela-g")]
    assert not any(step.group == "train" for step in steps_of(found))
    assert found.output == tmp_path / "report"
    with pytest.raises(ConfigError, match="no run of multi30k, en to de"):
        adopted_experiment("multi30k", tmp_path, kinds=ATTENTION_VARIANTS, seeds=[], output=None)


def test_a_report_on_next_to_nothing(tmp_path: Path) -> None:
    """It can be asked for at any moment: what is not known is said to be missing, and no figure is made up."""
    write_run(tmp_path / "one", attention="rela-g")
    found = adopted_experiment("demo", tmp_path, kinds=ATTENTION_VARIANTS, seeds=[], output=tmp_path / "report")
    write_report(found, Journal(tmp_path / "steps"))
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "| rela-g | 1 | 1 | – | – | – | – | – | – |" in text
    for line in (
        "Not measured.", "* Not run: softmax, sparsemax, entmax15, rela-i.", "* one: not translated yet.",
        "* one: training is not finished, it stands at update 1.", "Without a softmax run there is nothing to compare",
    ):  # fmt: skip
        assert line in text
    assert json.loads((tmp_path / "report" / "results.json").read_text("utf-8"))["runs"][0]["scores"] == {}


def test_the_plan_knows_what_is_to_be_fetched() -> None:
    size = cost_estimate.archive_size(experiment())
    assert (size.archives, size.unknown) == (5, 2)
    assert size.known_bytes == 658_092_427 + 918_734_483 + 80_462_375
    assert cost_estimate.archive_size(experiment("demo")).archives == 0


def test_a_document_in_both_forms(tmp_path: Path) -> None:
    picture = tmp_path / "sub" / "p.png"
    picture.parent.mkdir()
    picture.write_bytes(b"png")
    blocks = [
        Heading("A < B", 1), Paragraph("See `x<y>` and [this](https://example.org)."),
        Table(["name", "n"], [["a|b", "1"]]), Figure(picture, "What it shows"), Code(["a < b"]),
    ]  # fmt: skip
    markdown, page = to_markdown(blocks, beside=tmp_path), to_html(blocks)
    assert "| --- | ---: |\n| a\\|b | 1 |" in markdown
    assert "![What it shows](sub/p.png)" in markdown
    assert "<code>x&lt;y&gt;</code>" in page
    assert '<td class="text">a|b</td><td>1</td>' in page
    assert "data:image/png;base64,cG5n" in page
    assert not re.search(r'(src|href)="(?!data:|https://example.org)', page), "the page needs no other file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wmt41"], "task: unknown 'wmt41'; did you mean 'wmt14'?"),
        (["demo", "--kinds", "softmax,rela"], "argument --kinds: 'rela'; did you mean 'rela-"),
        (["demo", "--seeds", "1,two"], "argument --seeds: 'two'; accepted: whole numbers from 0"),
        (["demo", "model.head=4"], "model.head: unknown key"),
        (["demo", "--runs", "nowhere"], "--runs nowhere: no run of demo, en to de, in it"),
        (["demo", "--runs", "nowhere", "model.heads=4"], "--runs takes runs as they are"),
        (["demo", "--gold-reversed"], "--gold-reversed needs --gold"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_average_of_adopted_runs_is_kept_while_it_is_the_newest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    found = adopted_experiment("demo", tmp_path, kinds=ATTENTION_VARIANTS, seeds=[], output=None)
    assert "average one" in [step.name for step in steps_of(found)]
    write_checkpoint(run.path / "average", tensors={}, state={"averaged": ["step_0", "step_1"]})
    assert "average one" not in [step.name for step in steps_of(found)]
    write_checkpoint(run.path / "average", tensors={}, state={"averaged": ["step_0"]})
    assert "average one" in [step.name for step in steps_of(found)]


def test_what_runs_says_when_it_will_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred updates in a minute: two days for the other 299,800 of this run, and the next takes as long."""
    found = experiment(kinds=("softmax", "rela-g"), output=tmp_path)
    training = [step for step in steps_of(found) if step.group == "train"]
    now = [1_000.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    journal = Journal(tmp_path / "steps")
    watch = runner._Watch(training[0], training[1:], journal)
    metrics = found.runs[0].path / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    caplog.set_level("INFO", logger="nmt_rela")
    for update, seconds in ((100, 61.0), (200, 61.0)):
        metrics.write_text(json.dumps({"event": "train", "update": update}) + "\n", encoding="utf-8")
        now[0] += seconds
        watch.look()
    assert journal.seconds_so_far(training[0].name) == 122.0
    assert re.search(r"update 200 of 300,000, about 50\.\d h left; everything is done about \w+ \d\d:\d\d", caplog.text)


def test_the_plan_measures_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_probe, "_ENOUGH", 0.0)
    monkeypatch.chdir(tmp_path)
    found = experiment("demo", scale="smoke", kinds=("softmax", "rela-g"))
    journal = Journal(found.output / "steps")
    lines = list(cost_estimate.plan_lines(found, list(steps_of(found)), journal))
    assert list(tmp_path.iterdir()) == []
    text = "\n".join(lines)
    assert re.search(r"softmax +[\d,]+ tokens/s in training, [\d.]+ s an update", text)
    assert re.search(r"^  2\. train softmax.seed1 +about \d+ (s|min)$", text, flags=re.MULTILINE)
    assert re.search(r"^time:  about ", text, flags=re.MULTILINE)
    assert re.search(r"^disk:  archives 0.0 GB", text, flags=re.MULTILINE)


def test_the_paper_scale_takes_what_its_updates_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second an update, 300,000 updates are 83 hours and a little for validation; two GPUs need half."""
    speed = speed_probe.Speed(
        device="x", precision="bf16", parameters=77_000_000, seconds_per_update=1.0, training_tokens=25_000.0,
        decoding_tokens=50_000.0,
    )  # fmt: skip
    found = experiment(kinds=("softmax",))
    size = cost_estimate.archive_size(found)
    (train,) = (step for step in steps_of(found) if step.group == "train")
    one, two = (
        cost_estimate._estimator(found, {"softmax": speed}, size, gpus=gpus, data_is_there=True)(train)
        for gpus in (1, 2)
    )
    assert 300_000 < one < 301_000
    assert one - two == pytest.approx(150_000)
