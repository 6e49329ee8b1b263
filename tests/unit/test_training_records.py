"""Records of finished runs: what is kept of them, and the tables made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tools import training_records
from tools.training_records import attention_table, read_results, record_of, seed_tables, write_tables

from nmt_rela.checkpoints.checkpoint import weights_checksum
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.generation.evaluation import store_evaluation
from nmt_rela.utils.errors import UserError
from tests.integration.small_run import write_run

VALIDATION = {"event": "validation", "time": 1.8e9, "elapsed": 9.0, "bleu": 7.25, "chrf": 30.0, "sparsity_cross": 0.5}
LEADS = "measurements/leads"
HEADER = (
    "| run | attention | changed | development loss (updates) | training loss at the end | development BLEU, chrF2 "
    "| cross-attention: zeros, null rows | test, average: BLEU, chrF2 |"
)


def finished_run(path: Path, *, attention: str, losses: dict[int, float], scored: bool = True) -> Path:
    run = write_run(path, attention=attention)
    events = [
        {"event": "train", "time": 1.8e9, "update": update, "loss": update / 3, "gradient_norm": 0.5, "epoch": 1}
        for update in (1, 50, 100, 200)
    ]
    events += [{**VALIDATION, "update": n, "loss": loss, "null_cross": 0.125} for n, loss in losses.items()]
    run.metrics.write_text("".join(json.dumps(event) + "\n" for event in events), "utf-8")
    run.environment.write_text(
        json.dumps({"python": "3.11", "torch": "2.13", "device": "cpu", "ranks": 1, "threads": 2, "platform": "x"})
    )
    if scored:
        entry = {"name": "test", "source": f"{path}/test.en", "bleu": 30.123, "chrf": 50.0, "length_ratio": 1.0}
        run.link_checkpoint("average", "step_1")
        entry |= {"settings": {"beam_size": 4}, "weights": weights_checksum(run.checkpoint("average"))}
        entry |= {"references_sha256": "0"}
        store_evaluation(path / "evaluation" / "average", ["a line"], [["a line"]], entry)
    return path


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """The settings of the small run of softmax."""
    file = tmp_path / "small.yaml"
    file.write_text(config_to_yaml(write_run(tmp_path / "configured", attention="softmax").config()), "utf-8")
    return file


def test_a_record_has_the_settings_that_differ_and_no_text_or_path(tmp_path: Path, configuration: Path) -> None:
    run = finished_run(tmp_path / "a", attention="rela-g", losses={100: 3.0, 200: 2.5})
    config = RunDirectory(run).config_file
    text = config.read_text("utf-8").replace("label_smoothing: 0.1", "label_smoothing: 0.25")
    for name, value in (("data_dir", f"{tmp_path}/p"), ("vocabulary", f"{tmp_path}/v"), ("weights", "{a: 2.0}")):
        text = re.sub(rf"  {name}: .*", f"  {name}: {value}", text)
    config.write_text(text, "utf-8")
    record = record_of(run, configuration, change="weights max(0, s)²")
    assert record["attention"] == "rela-g"
    expected = {"data.vocabulary": "v", "data.weights": '{"a": 2.0}', "training.label_smoothing": "0.25"}
    assert record["settings"] == expected
    assert record["change"] == "weights max(0, s)²"
    assert record["training"] == [
        {"update": 100, "loss": pytest.approx(151 / 9, rel=1e-5), "gradient_norm": 0.5},
        {"update": 200, "loss": 66.6667, "gradient_norm": 0.5},
    ]
    assert [(event["update"], event["loss"]) for event in record["validations"]] == [(100, 3.0), (200, 2.5)]
    assert record["scores"]["average"]["test"]["bleu"] == 30.123
    text = json.dumps(record)
    assert str(tmp_path) not in text
    assert "a line" not in text


def test_a_run_without_a_validation_is_refused(tmp_path: Path, configuration: Path) -> None:
    run = finished_run(tmp_path / "a", attention="softmax", losses={})
    with pytest.raises(UserError, match=r"a: has no validation yet"):
        record_of(run, configuration, change="")


def test_scores_of_weights_that_were_replaced_are_left_out(tmp_path: Path, configuration: Path) -> None:
    run = finished_run(tmp_path / "a", attention="softmax", losses={100: 3.0})
    scores = run / "evaluation/average/scores.json"
    scores.write_text(scores.read_text("utf-8").replace('"weights": "', '"weights": "0'), "utf-8")
    assert record_of(run, configuration, change="")["scores"] == {}


def test_tables_stand_between_their_markers(
    tmp_path: Path, configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_records, "MEASUREMENTS", tmp_path / "measurements")
    folder = tmp_path / "measurements" / "leads"
    folder.mkdir(parents=True)
    for name, attention, losses, scored, change in (
        ("a", "softmax", {100: 3.0, 200: 2.5}, True, ""),
        ("b", "rela-g", {100: 2.75}, False, "a gate"),
    ):
        run = finished_run(tmp_path / name, attention=attention, losses=losses, scored=scored)
        (folder / f"{name}.json").write_text(json.dumps(record_of(run, configuration, change=change)), "utf-8")
    page = "before\n<!-- records of leads: begin -->\nold\n<!-- records of leads: end -->\nafter\n"
    expected = f"""before
<!-- records of leads: begin -->

{HEADER}
| --- | --- | --- | --- | --- | --- | --- | --- |
| [a]({LEADS}/a.json) | softmax |  | 3.000 (100), 2.500 (200) | 66.667 | 7.2, 30.0 | 50 %, 12 % | 30.12, 50.00 |
| [b]({LEADS}/b.json) | rela-g | a gate | 2.750 (100) | 16.778 | 7.2, 30.0 | 50 %, 12 % |  |

<!-- records of leads: end -->
after
"""
    assert write_tables(page) == expected
    assert write_tables(expected) == expected


def test_the_command_keeps_a_record_and_writes_the_tables_of_every_page(
    tmp_path: Path, configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = (tmp_path / "results.md", tmp_path / "trials.md")
    for page, table in zip(pages, ("source of use", "records of leads"), strict=True):
        page.write_text(f"<!-- {table}: begin -->\n<!-- {table}: end -->\n", "utf-8")
    monkeypatch.setattr(training_records, "PAGES", pages)
    monkeypatch.setattr(training_records, "MEASUREMENTS", tmp_path / "measurements")
    (tmp_path / "measurements" / "use").mkdir(parents=True)
    names = ("nll", "nll_other_source", "likely", "unlikely", "repeated_words", "repeated_words_reference", "length")
    use = tmp_path / "measurements" / "use" / "a.json"
    use.write_text(json.dumps(dict.fromkeys(names, 0.5)), "utf-8")
    run = finished_run(tmp_path / "a", attention="softmax", losses={100: 3.0})
    options = [str(run), "--to", "leads", "--configuration", str(configuration)]
    monkeypatch.setattr("sys.argv", ["training_records", *options])
    assert training_records.main() == 0
    assert "| [a](measurements/use/a.json) | 0.500 |" in pages[0].read_text("utf-8")
    assert "| [a](measurements/leads/a.json) | softmax |" in pages[1].read_text("utf-8")
    use.write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"use/a\.json: is no record"):
        training_records.main()


def report(runs: list[tuple[str, int, float, float | None]]) -> dict[str, Any]:
    """What the tables read of a results.json: (attention, seed, BLEU, p) of each run."""
    site = {"sparsity": 0.5, "null_rate": 0.25, "diversity": 0.5}
    names = [f"{attention}.seed{seed}" for attention, seed, _, _ in runs]
    return {
        "task": {"tests": ["test"]},
        "runs": [
            {
                "name": name,
                "attention": attention,
                "seed": seed,
                "updates": 1600,
                "other_settings": "0",
                "scores": {"test": {"bleu": bleu, "chrf": 60.0}},
            }
            for name, (attention, seed, bleu, _) in zip(names, runs, strict=True)
        ],
        "curves": {name: [{"loss": 3.0}, {"loss": run[1] + 0.5}] for name, run in zip(names, runs, strict=True)},
        "significance": {"test": {name: {"bleu": {"p": run[3]}} for name, run in zip(names, runs, strict=True)}},
        "attention": {name: {"sites": dict.fromkeys(("encoder", "decoder", "cross"), site)} for name in names[2:]},
    }


SEEDS_HEADER = "| attention | seeds | updates | development loss | test: BLEU | chrF2 | BLEU minus softmax's | p |"


def test_a_difference_is_to_the_softmax_run_of_the_same_seed() -> None:
    runs = [("softmax", 1, 30.0, None), ("softmax", 2, 36.0, None), ("rela-g", 2, 35.0, 0.25), ("rela-g", 1, 29.5, 0.5)]
    head = " | ".join(["0.50 ± 0.00, 0.25 ± 0.00, 0.50 ± 0.00"] * 3)
    assert list(seed_tables(report(runs))) == [
        SEEDS_HEADER,
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| softmax | 2 | 1,600 | 2.000 ± 0.707 | 33.00 ± 4.24 | 60.00 ± 0.00 |  |  |",
        "| rela-g | 2 | 1,600 | 2.000 ± 0.707 | 32.25 ± 3.89 | 60.00 ± 0.00 | -0.75 ± 0.35 | 0.250, 0.500 |",
        "",
        "| attention | encoder: zeros, null rows, diversity | decoder: zeros, null rows, diversity "
        "| cross: zeros, null rows, diversity |",
        "| --- | --- | --- | --- |",
        f"| rela-g | {head} |",
    ]


def test_runs_of_other_settings_are_other_rows_with_their_own_baseline() -> None:
    results = report(
        [("softmax", 1, 30.0, None), ("softmax", 1, 20.0, 0.0), ("rela-g", 1, 29.0, 0.5), ("rela-g", 1, 21.0, 0.5)]
    )
    for number, run in enumerate(results["runs"]):
        run |= {"other_settings": str(number % 2), "name": f"run{number}"}
    rows = [line.split(" | ") for line in seed_tables(results)][2:6]
    assert [(row[0], row[1], row[4], row[6]) for row in rows] == [
        ("| run0", "1", "30.00", ""),
        ("| run1", "1", "20.00", ""),
        ("| run2", "1", "29.00", "-1.00"),
        ("| run3", "1", "21.00", "+1.00"),
    ]


def test_what_a_report_lacks_is_shown_as_missing() -> None:
    assert "| rela-g | 1 | 1,600 | 1.500 | 29.50 | 60.00 |  |  |" in seed_tables(report([("rela-g", 1, 29.5, None)]))
    results = report([("softmax", 1, 30.0, None), ("rela-g", 1, 29.0, None), ("rela-i", 1, 28.0, 0.5)])
    results["runs"][2]["scores"] = {}  # not translated yet
    results["curves"]["rela-g.seed1"] = []
    results["attention"] = {"rela-g.seed1": {"sites": {
        site: {"sparsity": 0.5, "null_rate": 0.25, "diversity": None} for site in ("encoder", "decoder", "cross")
    }}}  # fmt: skip
    lines = list(seed_tables(results))
    assert lines[2:4] == [
        "| softmax | 1 | 1,600 | 1.500 | 30.00 | 60.00 |  |  |",
        "| rela-g | 1 | 1,600 | – | 29.00 | 60.00 | -1.00 | – |",
    ]
    assert lines[-1] == "| rela-g | 0.50, 0.25, – | 0.50, 0.25, – | 0.50, 0.25, – |"
    del results["runs"][1]["scores"]["test"]["bleu"]
    assert "| rela-g | 1 | 1,600 | – | – | 60.00 | – | – |" in seed_tables(results)


def test_a_table_of_attention_has_means_over_layers_and_blanks_where_a_length_was_not_seen() -> None:
    names = ("mass_spread", "effective_keys", "weak_weights", "null_rows", "dead_keys", "head_scale", "branch")
    layers = [
        {"site": site, "mass_by_visible_keys": masses, "hard_gates": None, **dict.fromkeys(names, value)}
        for site, masses in (("encoder", {"5-8": 1.0}), ("decoder", {"1-4": 1.0, "5-8": 2.0}), ("cross", {"5-8": 3.0}))
        for value in (1.0, 2.0)
    ]
    rest = " | ".join([*["1.50"] * 6, "", "1.50"])  # softmax has no gates
    assert list(attention_table({"a": {"file": "heads/a.json", "layers": layers}}))[2:] == [
        f"| [a](measurements/heads/a.json) | encoder |  | 1.00 | {rest} |",
        f"| [a](measurements/heads/a.json) | decoder | 1.00 | 2.00 | {rest} |",
        f"| [a](measurements/heads/a.json) | cross |  | 3.00 | {rest} |",
    ]


def test_an_attention_of_settings_of_its_own_is_compared_with_the_only_softmax() -> None:
    results = report([("softmax", 1, 30.0, None), ("sparsemax", 1, 29.0, 0.25)])
    results["runs"][1]["other_settings"] = "1"
    rows = [line.split(" | ") for line in seed_tables(results)][2:4]
    label = "| sparsemax (settings of its own)"
    assert [(row[0], row[6], row[7]) for row in rows] == [("| softmax", "", " |"), (label, "-1.00", "0.250 |")]
    results = report([("softmax", 1, 30.0, None), ("softmax", 1, 20.0, 0.0), ("sparsemax", 1, 29.0, 0.25)])
    for number, run in enumerate(results["runs"]):
        run |= {"other_settings": str(number), "name": f"run{number}"}
    assert [line.split(" | ")[6] for line in seed_tables(results)][2:5] == ["", "", ""]  # neither is the only one


def test_tables_over_seeds_stand_between_their_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_records, "MEASUREMENTS", tmp_path)
    (tmp_path / "grid").mkdir()
    results = report([("softmax", 1, 30.0, None)])
    (tmp_path / "grid" / "results.json").write_text(json.dumps(results), "utf-8")
    page = "before\n<!-- seeds of grid: begin -->\nold\n<!-- seeds of grid: end -->\nafter\n"
    table = "\n".join(seed_tables(results))
    expected = f"before\n<!-- seeds of grid: begin -->\n\n{table}\n\n<!-- seeds of grid: end -->\nafter\n"
    assert write_tables(page) == expected
    assert write_tables(expected) == expected


def test_seeds_of_several_reports_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_records, "MEASUREMENTS", tmp_path)
    (tmp_path / "grid").mkdir()
    seeds = [
        [("softmax", seed, bleu, None), ("rela-i", seed, bleu - 2, 0.125), ("rela-g", seed, bleu - 1, p)]
        for seed, bleu, p in ((1, 30.0, 0.5), (2, 36.0, 0.25))
    ]
    for number, runs in enumerate(seeds):
        (tmp_path / "grid" / f"results-{number}.json").write_text(json.dumps(report(runs)), "utf-8")
    (tmp_path / "grid" / "results-1.json").write_text(
        json.dumps({**report(seeds[1]), "task": {"tests": ["test"], "name": "again", "scale": "small"}}), "utf-8"
    )
    lines = list(seed_tables(read_results("grid")))
    assert lines[4].startswith("| rela-g | 2 | 1,600 | 2.000 ± 0.707 | 32.00 ± 4.24 |")
    assert lines[4].endswith(" | -1.00 ± 0.00 | 0.500, 0.250 |")
    assert lines[-1].startswith("| rela-g | 0.50 ± 0.00, ")  # the heads of both reports
    other = report([("softmax", 3, 30.0, None)])
    other["task"] = {"tests": ["test"], "title": "other text"}
    for text, message in (
        (json.dumps(report(seeds[0][:1])), "results-2.json: has runs of seed 1, as results-0.json has"),
        (json.dumps(other), "results-2.json: has other text than results-0.json"),
        ("{", "results-2.json: is no report"),
        ('{"runs": []}', "results-2.json: is no report"),
        (json.dumps(other | {"task": 3}), "results-2.json: is no report"),
        (json.dumps(other | {"runs": [{"name": "a"}]}), "results-2.json: is no report"),
        (json.dumps({key: value for key, value in other.items() if key != "significance"}), "is no report"),
    ):
        (tmp_path / "grid" / "results-2.json").write_text(text, "utf-8")
        with pytest.raises(UserError, match=message):
            read_results("grid")
    with pytest.raises(UserError, match="no results"):
        read_results("other")


def test_the_tables_of_the_page_are_those_of_the_records() -> None:
    for path in training_records.PAGES:
        page = path.read_text("utf-8")
        assert write_tables(page) == page
        assert training_records.MARKERS.search(page)
