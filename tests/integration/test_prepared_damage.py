"""Damage in prepared data, and data that does not belong together, is found before it is used."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from nmt_rela.commands import evaluate, train
from nmt_rela.config.schema import DataConfig
from nmt_rela.preparation.pipeline import load_prepared, prepare
from nmt_rela.utils.errors import DataError
from tests.digits import TINY, write_digits
from tests.integration.own_text import own_task, settings, tree


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    links = "    alignments: {file: test.align, order: [de, en]}\n"
    (tmp_path / "test.align").write_text("0-0\n" * 5, "utf-8")
    return settings(own_task(tmp_path, extra=links), tmp_path / "out")


def test_a_flipped_bit_in_any_file_is_found_and_its_stage_made_again(
    data: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(data)
    root = Path(data.data_dir)
    before = tree(root)
    assert len(before) == 29
    for name in sorted(before, key=lambda name: "/text-" in name):
        flip(root / name)
        if "/text-" in name:  # read again only where the vocabulary changes
            prepare(dataclasses.replace(data, vocabulary_size=100))
            shutil.rmtree(next(path.parent for path in root.glob("*/tokenizers-*/joint.model") if new(path, before)))
        else:
            caplog.clear()
            prepare(data)
            is_record = name.endswith("stage.json") or "prepared-" in name
            assert is_record or f"{root / name}: damaged: its SHA-256 is not that of stage.json" in caplog.text
        after = tree(root)
        assert all(after[other] == before[other] for other in before if not other.endswith("stage.json")), name


def new(path: Path, before: dict[str, bytes]) -> bool:
    return not any(name.endswith(f"{path.parent.name}/{path.name}") for name in before)


def test_a_damaged_set_is_not_evaluated(data: DataConfig) -> None:
    prepared = prepare(data)
    flip(prepared.tests[0].target)
    with pytest.raises(DataError, match=rf"^{prepared.tests[0].target}: damaged: .* nmt-prepare makes it again"):
        load_prepared(data)


def test_a_damaged_stage_stays_until_it_can_be_made_again(data: DataConfig) -> None:
    prepared = prepare(data)
    text = Path(data.task).parent / "text"
    flip(prepared.dev.source)
    content = prepared.dev.source.read_bytes()
    text.rename(text.with_name("elsewhere"))
    with pytest.raises(DataError, match="no such file; paths start from the task file"):
        prepare(data)
    assert prepared.dev.source.read_bytes() == content
    text.with_name("elsewhere").rename(text)
    assert prepare(data) == prepared
    assert prepared.dev.source.read_bytes() != content


def test_ids_of_another_vocabulary_are_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_digits(tmp_path, reverse=False, pairs=50)
    command = ["--config", str(config), "--quiet", *TINY, "training.max_updates=1"]
    assert train.main(command) == 0
    assert train.main([*command, f"run_dir={tmp_path}/other", "data.vocabulary_size=23"]) == 0
    one, other = sorted(tmp_path.glob("prepared/*/tokenizers-*"), key=os.path.getmtime)
    shutil.copytree(other, one, dirs_exist_ok=True)
    capsys.readouterr()
    assert train.main([*command, f"run_dir={tmp_path}/third"]) == 2
    error = capsys.readouterr().err
    assert "/corpus: its ids are those of another vocabulary than the prepared tokenizers; remove" in error
    assert error.count("\n") == 1


def test_changed_data_leaves_the_run_that_it_does_not_fit_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_digits(tmp_path, reverse=False, pairs=50)
    command = ["--config", str(config), "--quiet", *TINY]
    assert train.main([*command, "training.max_updates=1"]) == 0
    text = (tmp_path / "train.plain").read_text()
    (tmp_path / "train.plain").write_text(text.replace("9", "8"))
    before = (tmp_path / "run/tokenizer/joint.model").read_bytes()
    capsys.readouterr()
    assert train.main([*command, "training.max_updates=2"]) == 2
    assert "was trained on another vocabulary than is prepared now in" in capsys.readouterr().err
    assert (tmp_path / "run/tokenizer/joint.model").read_bytes() == before


def test_text_edited_with_its_size_and_time_kept_is_noticed(data: DataConfig) -> None:
    first = prepare(data)
    path = Path(data.task).parent / "text/train.en"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"HAUS", b"HAUT"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare(data).train != first.train


def test_a_run_that_was_moved_names_what_it_no_longer_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_digits(tmp_path, reverse=False, pairs=50)
    assert train.main(["--config", str(config), "--quiet", *TINY, "training.max_updates=1"]) == 0
    run = (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "prepared").rename(tmp_path / "data")
    text = ["--source", str(tmp_path / "test.plain"), "--reference", str(tmp_path / "test.turned")]
    assert evaluate.main(["--model", str(run), "--quiet", *text]) == 0
    capsys.readouterr()
    assert evaluate.main(["--model", str(run), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert f"{run}/config.yaml:6: data.data_dir: {tmp_path}/prepared/digits-plain-turned: the data of these" in error
    more = ["--quiet", "training.max_updates=2", f"data.data_dir={tmp_path / 'data'}"]
    assert train.main(["--model", str(run), *more]) == 0
    assert (run / "last").resolve().name == "step_00000002"
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "prepared").exists()
    (tmp_path / "digits.yaml").rename(tmp_path / "renamed.yaml")
    capsys.readouterr()
    assert train.main(["--model", str(run), *more]) == 2
    assert f"{run}/config.yaml:3: data.task: {tmp_path}/digits.yaml: no such task file" in capsys.readouterr().err
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("adam_beta2: 0.98", "adam_beta2: 0.88").replace("digits.y", "renamed.y"))
    assert train.main(["--model", str(run), *more]) == 2
    assert "begun with other settings: training.adam_beta2 (0.98 → 0.88)" in capsys.readouterr().err
    file.write_text(file.read_text().replace("adam_beta2: 0.88", "adam_beta2: 0.98"))
    for wrong, reason in (
        (["--model", str(run), "--config", str(config)], "--config and --model exclude each other"),
        (["--model", str(run), f"run_dir={tmp_path / 'x'}"], f"--model {run} is the run directory"),
        (["--model", str(run), "model.d_model=32"], "model.d_model (16 → 32)"),
        (["--model", str(tmp_path / "run")], "is no run directory, it has no config.yaml"),
        ([], "found neither --config nor --model"),
    ):
        capsys.readouterr()
        assert train.main([*wrong, "--quiet"]) == 2
        assert reason in capsys.readouterr().err
