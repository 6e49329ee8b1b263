"""What a user gets wrong is answered by one line that names the place, with status 2, and nothing is overwritten."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_state, load_tensors, write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import average, evaluate, prepare, train, translate
from nmt_rela.export.safetensors import export_safetensors
from tests.digits import TINY, write_digits
from tests.integration.small_run import write_run


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_digits(tmp_path, reverse=False, pairs=50)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: replace(d / "config.yaml", "rela-g", "relag"), ["model.attention", "relag", "rela-g"]),
        (lambda d: replace(d / "config.yaml", "num_heads", "num_haed"), ["model.num_haed", "did you mean 'num_heads'"]),
        (lambda d: replace(d / "config.yaml", "num_heads: 4", "num_heads: four"), ["model.num_heads", "four"]),
        (lambda d: replace(d / "config.yaml", "num_heads: 4", "num_heads: 5"), ["model.num_heads", "64"]),
        (lambda d: (d / "train.turned").unlink(), ["train.turned"]),
        (lambda d: (d / "digits.yaml").unlink(), ["digits.yaml"]),
        (lambda d: append(d / "train.turned", b"1 2 3\n"), ["train", "50", "51"]),
        (lambda d: append(d / "dev.plain", b"1 2 3\n"), ["dev", "50", "51"]),
        (lambda d: replace(d / "config.yaml", "reverse", "x") or shutil.rmtree(d) or d.mkdir(), ["config.yaml"]),
    ],
)  # fmt: skip
def test_invalid_training_input_is_one_line(
    experiment: Path, spoil: Callable[[Path], object], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(experiment.parent)
    assert train.main(["--config", str(experiment), "--quiet"]) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert lines[-1].startswith("nmt-train: error: ")
    assert "Traceback" not in "".join(lines)
    for word in words:
        assert word in lines[-1]
    assert not (experiment.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.weights.train=0", "data.weights.train: found 0.0; accepted: 0.001 to 1000.0"),
        ("data.weights.train=-2", "data.weights.train: found -2.0; accepted: 0.001 to 1000.0"),
        ("data.weights.trian=2", "data.weights.trian: no training source of"),
        ("data.weights=2", "data.weights: expected a mapping, found 2"),
        ("data.temperature=0.5", "data.temperature: found 0.5; accepted: 1.0 to 100.0"),
        ("data.subword_regularization=1.5", "data.subword_regularization: found 1.5; accepted: 0.0 to 1.0"),
        ("training.ema_decay=1", "training.ema_decay: found 1.0; accepted: 0.0 to 0.999999"),
        ("data.vocabulary=nowhere", "data.vocabulary: found 'nowhere', where no sub-word models are; accepted: a run"),
    ],
)
def test_an_impossible_setting_of_a_corpus_is_one_line(
    experiment: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["--config", str(experiment), "--quiet", override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_weights_that_leave_an_epoch_without_pairs_are_one_line(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--config", str(experiment), "--quiet", *TINY, "data.weights.train=0.001"]) == 2
    assert "data.weights: epoch 0 holds none of 50 pairs; choose larger ones" in capsys.readouterr().err


def test_links_beyond_the_pair_are_one_line(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = experiment.parent / "digits.yaml"
    append(task, b"    alignments: {file: links, order: [plain, turned]}\n")
    (experiment.parent / "links").write_text("0-0\n" * 149 + "0-0 1-99\n", encoding="utf-8")
    assert prepare.main(["--config", str(experiment), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "links:150: a link of source word 1 and target word 99; accepted: below 9 and 9" in line


def test_an_unusable_start_of_training_is_found_before_anything_is_prepared(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(experiment.parent / "other")
    for start, found in (("nope", "nope: not a run directory"), (other.path, "model.ffn_dim is 48, not 128")):
        command = ["--config", str(experiment), "--quiet", f"training.initialize_from={start}"]
        assert train.main(command) == 2
        assert re.search(rf"error: training\.initialize_from: .*{found}", capsys.readouterr().err)
    assert not (experiment.parent / "prepared").exists()


def test_invalid_utf8_in_a_development_set_is_named_by_line(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(experiment.parent / "dev.plain", b"1 \xff 2\n")
    append(experiment.parent / "dev.turned", b"1 2\n")
    assert train.main(["--config", str(experiment), "--quiet"]) == 2
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert "'dev': line 51 of plain" in error
    assert "UTF-8" in error


def test_a_project_folder_with_a_configuration_of_its_own_is_not_taken_for_a_run(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = experiment.parent / "config.yaml"
    own.write_text(experiment.read_text(encoding="utf-8") + "# notes\n", encoding="utf-8")
    (experiment.parent / "README.md").write_text("my project", encoding="utf-8")
    before = own.read_bytes()
    assert train.main(["--config", str(own), "--quiet", f"run_dir={experiment.parent}"]) == 2
    assert "holds files, but no run: " in capsys.readouterr().err
    assert own.read_bytes() == before
    assert (experiment.parent / "README.md").read_text(encoding="utf-8") == "my project"
    alone = experiment.parent / "alone"
    alone.mkdir()
    (alone / "config.yaml").write_bytes(before)
    assert train.main(["--config", str(own), "--quiet", f"run_dir={alone}"]) == 2
    assert (alone / "config.yaml").read_bytes() == before


def test_a_directory_that_is_no_run_is_neither_used_nor_overwritten(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = experiment.parent / "run" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    assert train.main(["--config", str(experiment), "--quiet"]) == 2
    assert "holds files, but no run: " in capsys.readouterr().err
    assert [p.name for p in precious.parent.iterdir()] == ["thesis.tex"]
    given = {translate: ["--input", str(experiment)], evaluate: [], average: []}
    for command, more in given.items():
        assert command.main(["--model", str(precious.parent), *more]) == 2
        assert "no config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run_dir", "reason"),
    [
        ("train.plain", "not a directory"),
        ("train.plain/run", "train.plain: not a directory"),
        ("lost", "no such file or directory"),
    ],
)
def test_a_run_directory_that_cannot_be_written_is_one_line(
    experiment: Path, run_dir: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (experiment.parent / "lost").symlink_to("nowhere")
    path = experiment.parent / run_dir
    assert train.main(["--config", str(experiment), "--quiet", f"run_dir={path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nmt-train: error: run_dir: {path} cannot be written: ")
    assert error.endswith(f"{reason}; choose another run_dir=…\n")
    assert error.count("\n") == 1
    assert not (experiment.parent / "prepared").exists()


def test_the_working_directory_is_not_moved_aside(
    experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(experiment.parent / "other").path)
    assert train.main(["--config", str(experiment), "--quiet", "--restart", "run_dir=."]) == 2
    assert "run_dir: . holds the working directory and cannot be moved aside" in capsys.readouterr().err


def test_a_data_directory_that_cannot_be_written_is_named_by_its_key(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (train, prepare):
        assert command.main(["--config", str(experiment), f"data.data_dir={experiment}"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "data.data_dir: " in last
        assert last.endswith(f"{experiment}: not a directory")


def test_an_export_is_not_trained_on(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(experiment.parent / "other")
    folder = experiment.parent / "exported"
    export_safetensors(run, folder)
    before = sorted(folder.rglob("*"))
    assert train.main(["--config", str(experiment), "--quiet", f"run_dir={folder}"]) == 2
    error = capsys.readouterr().err
    assert f"run_dir: {folder} is an export (model.safetensors)" in error
    assert f"training.initialize_from={folder}" in error
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_an_error_found_after_reading_names_the_line_of_its_setting(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (train, prepare):
        for line, old, new, message in (
            (4, "task: digits.yaml", "task: absent", "data.task: unknown task 'absent'"),
            (5, "source_language: plain", "source_language: flat", "data.source_language: the task 'digits' has no"),
            (8, "vocabulary_size: 25", "vocabulary_size: 9", "data.vocabulary_size: found 9; the corpus has"),
            (8, "vocabulary_size: 25", "max_length: 2", "data.max_length: every training pair is longer than 2"),
        ):
            text = experiment.read_text()
            replace(experiment, old, new)
            assert command.main(["--config", str(experiment), "--quiet"]) == 2
            assert f": error: {experiment}:{line}: {message}" in capsys.readouterr().err
            experiment.write_text(text)
        assert command.main(["--config", str(experiment), "--quiet", "data.task=absent"]) == 2
        assert ": error: data.task: unknown task 'absent'" in capsys.readouterr().err


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    other = write_digits(tmp_path, reverse=False, pairs=50)
    settings = ["training.max_updates=1", f"run_dir={tmp_path / 'digits'}"]
    assert train.main(["--config", str(other), "--quiet", *settings]) == 0
    shutil.rmtree(run.tokenizer)
    shutil.copytree(tmp_path / "digits" / "tokenizer", run.tokenizer)
    capsys.readouterr()
    assert translate.main(["--model", str(run.path), "--input", str(tmp_path / "test.plain")]) == 2
    error = capsys.readouterr().err.strip()
    assert "made with another vocabulary" in error
    assert "\n" not in error


def test_averaging_more_checkpoints_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert average.main(["--model", str(run.path), "--last", "5"]) == 2
    assert "has 1 checkpoints; accepted: as many at most" in capsys.readouterr().err
    assert not (run.path / "average").exists()


def test_a_checkpoint_at_an_impossible_position_or_with_other_moments_is_one_line(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(experiment), "--quiet", *TINY, "training.max_updates=9"]
    assert train.main([*command[:-1], "training.max_updates=2"]) == 0
    (path,) = list_checkpoints(experiment.parent / "run" / "checkpoints")
    state = load_state(path)
    tensors = {stem: load_tensors(path, stem) for stem in ("model", "training")}
    broken = tensors | {"training": tensors["training"] | {"optimizer": {"state": {0: {"step": None}}}}}
    progress = state["progress"] | {"next_update_in_epoch": 10**9}
    for content, changed, reason in (
        (tensors, state | {"progress": progress}, "at update 1000000000 of an epoch of"),
        (broken, state, "no state of training that fits: "),
        (tensors, state | {"progress": None}, "no state of training that fits: "),
    ):
        write_checkpoint(path, tensors=content, state=changed)
        capsys.readouterr()
        assert train.main(command) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_fine_tuning_on_other_text_takes_weights_and_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_digits(tmp_path, reverse=False, pairs=50)
    assert train.main(["--config", str(config), "--quiet", "training.max_updates=2"]) == 0
    (tmp_path / "new").mkdir()
    new = write_digits(tmp_path / "new", reverse=True, pairs=70)
    start = f"training.initialize_from={tmp_path / 'run'}"
    assert train.main(["--config", str(new), "--quiet", "training.max_updates=1", "training.seed=2", start]) == 0
    runs = [RunDirectory(folder / "run") for folder in (tmp_path, tmp_path / "new")]
    assert runs[0].load_tokenizers().fingerprint == runs[1].load_tokenizers().fingerprint
    before, after = (load_tensors(run.path / "last", "model") for run in runs)
    # Adam's first step is never longer than the learning rate, which has only begun to rise.
    assert all(float((after[name] - before[name]).abs().max()) < 7e-5 for name in before)
    capsys.readouterr()
    wider = ["--quiet", f"run_dir={tmp_path / 'wider'}", "model.ffn_dim=96", start]
    assert train.main(["--config", str(config), *wider]) == 2
    assert "run/config.yaml: model.ffn_dim is 128, not 96" in capsys.readouterr().err
    other = write_run(tmp_path / "other")
    refused = ["--quiet", f"run_dir={tmp_path / 'refused'}", start, f"data.vocabulary={other.path}"]
    assert train.main(["--config", str(config), *refused]) == 2
    assert "another vocabulary" in capsys.readouterr().err
    nowhere = ["--quiet", f"{start}-nowhere", f"run_dir={tmp_path / 'no'}"]
    assert train.main(["--config", str(config), *nowhere]) == 2
    assert "run-nowhere" in capsys.readouterr().err
