"""nmt-analyze from the command line to its files, on untrained runs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_run import write_run, write_text

from nmt_rela.analysis.pipeline import RunAnalysis, analyze_run
from nmt_rela.commands.analyze import main
from nmt_rela.config.schema import DecodingConfig
from nmt_rela.metrics.word_alignment import AlignmentCounts, read_pharaoh

HEADS = 4
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "analysis.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("analyze")
    write_text(directory)
    write_run(directory / "rela")
    write_run(directory / "soft", attention="softmax", seed=2)
    return directory


def text_options(place: Path) -> list[str]:
    return ["--source", str(place / "text.en"), "--target", str(place / "text.de"), "--quiet"]


@pytest.fixture(scope="module")
def output(place: Path) -> Path:
    """Everything, for two runs."""
    output = place / "out"
    options = [
        *text_options(place),
        "--gold",
        str(place / "text.align"),
        "--ablate-heads",
        "3",
        "--output",
        str(output),
    ]
    plots = ["--no-plots"] if not _has_matplotlib() else ["--plots", "svg"]
    assert main(["--model", str(place / "rela"), "--model", str(place / "soft"), *options, *plots]) == 0
    return output


def _has_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def test_json_has_every_run_site_and_layer(output: Path) -> None:
    found = json.loads((output / "analysis.json").read_text())
    assert found["format"] == 1
    assert found["text"] == {"name": "text.en", "sentences": 12, "gold": True}
    rela, soft = found["runs"]
    assert (rela["name"], soft["name"]) == ("rela", "soft")
    assert rela["attention"] == dict.fromkeys(("encoder", "decoder", "cross"), "rela-g")
    assert [(layer["site"], layer["layer"]) for layer in rela["layers"]] == [
        (site, layer) for site in ("encoder", "decoder", "cross") for layer in (0, 1)
    ]
    assert all(0 < site["sparsity"] < 1 for site in rela["sites"])
    assert all(site["sparsity"] == site["null_rate"] == 0 for site in soft["sites"])
    assert all(layer["mass"] == pytest.approx([1.0] * HEADS, abs=1e-5) for layer in soft["layers"])
    assert len(rela["head_ablation"]["effects"]) == 6 * HEADS
    assert [step["heads_off"] for step in rela["head_ablation"]["steps"]] == list(range(0, 25, 3))
    assert rela["head_ablation"]["steps"][0]["bleu"] is not None
    assert set(rela["quality"]["mismatch_auc"]) == {"encoder", "decoder", "cross"}
    assert rela["quality"]["mismatch_auc"]["encoder"] == 0.5  # the encoder does not see the target


def test_pharaoh_files_give_the_error_rates_of_the_json(place: Path, output: Path) -> None:
    gold = read_pharaoh(place / "text.align")
    run = json.loads((output / "analysis.json").read_text())["runs"][0]
    files = output / "alignments" / "rela"
    assert len(list(files.iterdir())) == 2 * 2 * (HEADS + 1)
    for layer in run["alignment"]:
        scores = {"average": layer["average"]} | {f"head{h}": counts for h, counts in enumerate(layer["heads"])}
        assert layer["heads"][layer["best_head"]]["aer"] == min(counts["aer"] for counts in layer["heads"])
        for who, counts in scores.items():
            found = AlignmentCounts()
            lines = read_pharaoh(files / f"layer{layer['layer']}.{who}.{layer['mode']}.txt")
            for line, expected in zip(lines, gold, strict=True):
                found.add(line.sure, expected)
            assert (found.error_rate, found.links) == (pytest.approx(counts["aer"]), counts["links"])
            assert (found.precision, found.recall) == (
                pytest.approx(counts["precision"]),
                pytest.approx(counts["recall"]),
            )


def keys_of(value: object) -> set[str]:
    """Every key anywhere in JSON data, but the sites that some objects are keyed by."""
    if isinstance(value, dict):
        below = set().union(*map(keys_of, value.values())) if value else set()
        return below | (set(value) - {"encoder", "decoder", "cross"})
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_the_manual_names_every_key_column_and_plot(output: Path) -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)(?:\[\])?`", manual))
    assert keys_of(json.loads((output / "analysis.json").read_text())) <= named
    for table in ("heads.csv", "layers.csv"):
        columns = (output / table).read_text().splitlines()[0].split(",")
        assert {re.sub("_(normal|shifted)_", "_MODE_", column) for column in columns} <= set(
            re.findall(r"`(\w+)`", manual)
        )


def test_the_manuals_python_examples_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence, batch = re.findall(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), flags=re.S)[:2]
    names: dict[str, Any] = {}
    exec(batch.replace("runs/demo", str(place / "rela")), names)
    assert names["attention"]["cross", 1].shape[:2] == (1, HEADS)
    if _has_matplotlib():
        monkeypatch.chdir(tmp_path)
        exec(sentence.replace("runs/demo", str(place / "rela")), names)
        assert names["attention"].target == "das alte Haus"


def test_tables_agree_with_the_json(output: Path) -> None:
    with open(output / "heads.csv", newline="") as stream:
        heads = list(csv.DictReader(stream))
    with open(output / "layers.csv", newline="") as stream:
        layers = list(csv.DictReader(stream))
    assert (len(heads), len(layers)) == (2 * 6 * HEADS, 2 * 6)
    run = json.loads((output / "analysis.json").read_text())["runs"][0]
    for row in heads[: 6 * HEADS]:
        layer = next(x for x in run["layers"] if (x["site"], str(x["layer"])) == (row["site"], row["layer"]))
        assert float(row["sparsity"]) == layer["sparsity"][int(row["head"])]
        assert (row["aer_normal"] == "") == (row["site"] != "cross")
        assert row["loss_change"] != ""
    assert layers[0]["diversity"] == str(run["layers"][0]["diversity"])


def test_page_and_plots_are_there(output: Path) -> None:
    assert (output / "attention.html").stat().st_size > 20_000
    if _has_matplotlib():
        names = {"sparsity_by_layer", "null_rate_by_layer", "diversity_by_layer", "null_rate_histogram", "aer_by_layer"}
        names |= {f"{plot}.{run}" for plot in ("heatmap", "head_ablation") for run in ("rela", "soft")}
        assert {path.name for path in (output / "plots").iterdir()} == {f"{name}.svg" for name in names}


def test_the_table_and_the_written_paths_are_printed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra 'analysis')")
    assert main(["--model", str(place / "rela"), *text_options(place), "--sentence", "3", "--layer", "0"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["site", "layer", "sparsity", "null", "rate", "diversity"]
    assert lines[1].startswith("encoder (rela-g)")
    assert str(place / "rela/analysis/plots/heatmap.rela.png") in lines
    assert all(Path(line).exists() for line in lines if line.startswith(str(place)))


def test_reversed_gold_links_are_swapped(place: Path, tmp_path: Path) -> None:
    reverse = tmp_path / "reverse.align"
    lines = (place / "text.align").read_text().splitlines()
    reverse.write_text("".join("0-2 " + line + "\n" for line in lines))
    options = [
        "--gold",
        str(reverse),
        "--gold-reversed",
        "--no-plots",
        "--page-sentences",
        "0",
        "--output",
        str(tmp_path),
    ]
    assert main(["--model", str(place / "rela"), *text_options(place), *options]) == 0
    found = json.loads((tmp_path / "analysis.json").read_text())["runs"][0]["alignment"][0]["average"]
    gold = [line.sure | {(2, 0)} for line in read_pharaoh(place / "text.align")]
    assert found["sure"] == sum(map(len, gold))
    assert not (tmp_path / "attention.html").exists()


def test_files_of_an_earlier_analysis_are_removed_and_nothing_else(place: Path, tmp_path: Path) -> None:
    options = [*text_options(place), "--no-plots", "--output", str(tmp_path)]
    assert main(["--model", str(place / "soft"), *options]) == 0
    old = [tmp_path / name for name in ("alignments/soft/layer0.average.normal.txt", "plots/heatmap.soft.png")]
    kept = tmp_path / "plots/mine.png"
    kept.parent.mkdir()
    for path in (old[1], kept):
        path.touch()
    assert main(["--model", str(place / "rela"), *options, "--page-sentences", "0"]) == 0
    assert not any(path.exists() for path in [*old, tmp_path / "attention.html"])
    assert kept.exists()


def test_over_long_pairs_are_left_out_and_counted(place: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "long.en", tmp_path / "long.de"
    source.write_text("the house\n" + "old " * 400 + "\nred dog\n")
    target.write_text("das haus\n" + "alte " * 400 + "\nrote hund\n")
    options = ["--source", str(source), "--target", str(target), "--no-plots", "--output", str(tmp_path), "--quiet"]
    assert main(["--model", str(place / "rela"), *options]) == 0
    run = json.loads((tmp_path / "analysis.json").read_text())["runs"][0]
    assert (run["sentences"], run["overlength"]) == (2, 1)
    lines = (tmp_path / "alignments/rela/layer0.average.normal.txt").read_text().split("\n")
    assert len(lines) == 4
    assert lines[1] == ""


@pytest.mark.parametrize(("blank", "said"), [("\n", "1 pairs left out"), ("", "rela: no alignment, because no pair")])
def test_blank_lines_and_mismatched_words_are_accepted_and_counted(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], blank: str, said: str
) -> None:
    source, target, gold = tmp_path / "odd.en", tmp_path / "odd.de", tmp_path / "odd.align"
    source.write_text(f"{blank}the¨house\n", encoding="utf-8")  # NFKC makes a space and a combining diaeresis of ¨
    target.write_text(f"{blank}haus\n", encoding="utf-8")
    gold.write_text(f"{blank}0-0\n")
    options = ["--source", str(source), "--target", str(target), "--gold", str(gold), "--no-plots", "--quiet"]
    assert main(["--model", str(place / "rela"), *options, "--output", str(tmp_path)]) == 0
    run = json.loads((tmp_path / "analysis.json").read_text())["runs"][0]
    assert run["alignment_left_out"] == 1  # never the blank pair: no words, and none expected
    assert said in capfd.readouterr().out


@pytest.mark.parametrize(("target", "links"), [("红房子\n猫", "0-0 1-1 1-2\n0-0"), ("红 房子\n猫", "0-0 1-1\n0-0")])
def test_words_of_a_language_without_spaces_are_its_characters(
    place: Path, tmp_path: Path, target: str, links: str
) -> None:
    run = write_run(tmp_path / "zh")  # its vocabulary has none of the characters
    run.config_file.write_text(run.config_file.read_text().replace("target_language: de", "target_language: zh"))
    files = {"en": "red house\ncat", "zh": target, "gold": links}
    for name, text in files.items():
        (tmp_path / f"text.{name}").write_text(f"{text}\n", encoding="utf-8")
    options = [f"--source={tmp_path}/text.en", f"--target={tmp_path}/text.zh", f"--gold={tmp_path}/text.gold"]
    assert main([f"--model={run.path}", *options, "--no-plots", "--quiet"]) == 0
    found = json.loads((run.path / "analysis/analysis.json").read_text())["runs"][0]
    assert found["alignment_left_out"] == 0
    assert {layer["average"]["sure"] for layer in found["alignment"]} == {4}
    lines = read_pharaoh(run.path / "analysis/alignments/zh/layer0.average.normal.txt")
    assert {target for _, target in lines[0].sure} <= {0, 1, 2}


def test_ablation_translates_with_the_decoding_overrides(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spy(*arguments: Any, decoding: DecodingConfig, **options: Any) -> RunAnalysis:
        asked.append(decoding)
        return analyze_run(*arguments, decoding=decoding, **options)

    monkeypatch.setattr("nmt_rela.analysis.pipeline.analyze_run", spy)
    models = ["--model", str(place / "rela"), "--model", str(place / "soft")]
    options = [*models, *text_options(place), "--no-plots", "--output", str(tmp_path)]
    assert main([*options, "--ablate-heads", "1", "decoding.min_length=2", "decoding.max_length_offset=7"]) == 0
    assert [(decoding.min_length, decoding.max_length_offset) for decoding in asked] == [(2, 7)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], "nowhere: not a run directory"),
        (["--model", "{rela}", "--source", "{place}/text.en"], "--source needs --target"),
        (["--model", "{rela}", "--layer", "2"], "--layer: found 2; accepted for {rela}: 0 to 1"),
        (["--model", "{rela}", "--layer", "0", "--no-plots"], "--no-plots and --layer exclude each other"),
        (["--model", "{rela}", "--sentences", "-1"], "--sentences: found -1; accepted: 0 or more"),
        (["--model", "{rela}", "--plots", "pgn"], "did you mean 'png'"),
        (
            ["--model", "{rela}", *"--source {place}/text.en --target {place}/text.align --gold {place}/no".split()],
            "/no",
        ),
        (["--model", "{rela}", *"--source {place}/text.en --target {place}/text.de --sentence 13".split()], "12 lines"),
        (["--model", "{rela}", *"--source {place}/text.en --target {rela}/words.txt".split()], "12 lines"),
        (["--model", "{rela}", "--checkpoint", "bst"], "no checkpoint 'bst'"),
        (["--model", "{rela}", "--ablate-heads", "1", "decoding.beam_siz=2"], "did you mean 'beam_size'"),
        (["--model", "{rela}", "--ablate-heads", "1", "model.num_heads=2"], "accepted: decoding.key=value"),
        (["--model", "{rela}", "decoding.beam_size=2"], "only translations, of --ablate-heads or --live, use"),
        (
            ["--model", "{rela}", "--ablate-heads", "1", "decoding.beam_size=2"],
            "decoding.beam_size: nmt-analyze --ablate-heads does not use it; accepted: decoding.max_length_offset,",
        ),
        (["--model", "{rela}", "--live", "decoding.batch_tokens=9"], "nmt-analyze --live does not use it"),
        (["--model", "{rela}", "--live", "--live-bits", "9"], "--live-bits: found 9; accepted: 4 to 8"),
        (["--model", "{rela}", "--gold-reversed"], "--gold-reversed: text.en has no gold alignments"),
    ],
)
def test_a_user_error_is_one_line_on_stderr(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    filled = [option.format(place=place, rela=place / "rela") for option in options]
    given = filled if "--source" in filled else [*filled, *text_options(place)]
    assert main([*given, "--output", str(tmp_path / "out")]) == 2
    shown = capfd.readouterr()
    assert message.format(rela=place / "rela") in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.out == ""
    assert not (tmp_path / "out").exists()
