"""Which checkpoints are kept, and what best and last link."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nmt_rela.checkpoints import manager as manager_module
from nmt_rela.checkpoints.checkpoint import list_checkpoints
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.utils.errors import CheckpointError


def save_all(run: RunDirectory, settings: TrainingConfig, scores: dict[int, float | None]) -> None:
    manager = CheckpointManager(run, settings)
    for update, score in scores.items():
        assert manager.save(update=update, validation={"bleu": score}, tensors={"model": {}}, state={"update": update})


def name(path: Path | None) -> str:
    assert path is not None
    return path.resolve().name


@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [(1, 0, [7]), (2, 1, [3, 6, 7]), (2, 2, [1, 3, 6, 7]), (9, 0, [1, 2, 3, 4, 5, 6, 7])],
)
def test_the_newest_and_the_best_stay(tmp_path: Path, last: int, best: int, kept: list[int]) -> None:
    settings = replace(TrainingConfig(), keep_last_checkpoints=last, keep_best_checkpoints=best)
    scores = {1: 20.0, 2: None, 3: 30.0, 4: None, 5: 10.0, 6: None, 7: None}
    run = RunDirectory(tmp_path)
    save_all(run, settings, scores)
    assert [int(path.name[-1]) for path in list_checkpoints(run.checkpoints)] == kept
    assert run.checkpoint("last").resolve().name == "step_00000007"
    if best:
        assert run.checkpoint("best").resolve().name == "step_00000003"
    else:
        assert "best" not in run.available_checkpoints()


def test_the_newest_intact_checkpoint_is_found_and_none_is_an_error(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_all(run, TrainingConfig(), {1: None, 2: None})
    (run.checkpoints / "step_00000002" / "state.json").write_text("{}")
    manager = CheckpointManager(run, TrainingConfig())
    assert name(manager.latest_valid()) == name(run.checkpoint("last")) == "step_00000001"
    (run.checkpoints / "step_00000001" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is intact"):
        manager.latest_valid()


def test_of_equal_scores_the_first_stays_best(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_all(
        run, replace(TrainingConfig(), keep_last_checkpoints=1, keep_best_checkpoints=1), {1: 100.0, 2: 100.0, 3: None}
    )
    assert run.checkpoint("best").resolve().name == "step_00000001"


def test_a_skipped_damaged_checkpoint_does_not_displace_a_new_one(tmp_path: Path) -> None:
    run, settings = RunDirectory(tmp_path), replace(TrainingConfig(), keep_last_checkpoints=2, keep_best_checkpoints=0)
    save_all(run, settings, {1: None, 5: None})
    (run.checkpoints / "step_00000005" / "state.json").write_text("{}")
    settings = replace(settings, keep_last_checkpoints=1)
    manager = CheckpointManager(run, settings)
    assert name(manager.latest_valid()) == "step_00000001"
    manager.save(update=3, validation=None, tensors={"model": {}}, state={"update": 3})
    assert run.checkpoint("last").resolve().name == "step_00000003"
    assert name(CheckpointManager(run, settings).latest_valid()) == "step_00000003"


def test_a_run_whose_links_were_copied_as_directories_continues(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_all(run, TrainingConfig(), {1: 1.0})
    for name in ("last", "best"):
        (tmp_path / name).unlink()
        shutil.copytree(run.checkpoints / "step_00000001", tmp_path / name)
    save_all(run, TrainingConfig(), {2: 2.0})
    assert [run.checkpoint(name).resolve().name for name in ("last", "best")] == ["step_00000002"] * 2


def test_the_remains_of_a_killed_save_are_cleaned_up(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_all(run, TrainingConfig(), {1: 5.0, 2: 7.0, 3: None})
    # Killed after a checkpoint was renamed, before the links were; another one half written; a third between the two
    # renames that replace it.
    run.link_checkpoint("last", "step_00000001")
    run.link_checkpoint("best", "step_00000001")
    (run.checkpoints / "step_00000004.partial").mkdir()
    (run.checkpoints / "step_00000004.partial" / "model.pt").write_text("half")
    (run.checkpoints / "step_00000003").rename(run.checkpoints / "step_00000003.replaced")
    shutil.copytree(run.checkpoints / "step_00000002", run.checkpoints / "step_00000002.replaced")
    assert name(CheckpointManager(run, TrainingConfig()).latest_valid()) == "step_00000003"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [f"step_0000000{n}" for n in (1, 2, 3)]
    assert name(run.checkpoint("last")) == "step_00000003"
    assert name(run.checkpoint("best")) == "step_00000002"


def test_a_best_that_could_not_be_written_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, settings = RunDirectory(tmp_path), replace(TrainingConfig(), keep_last_checkpoints=1, keep_best_checkpoints=1)
    save_all(run, settings, {1: 5.0})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manager_module, "write_checkpoint", full)
        assert not CheckpointManager(run, settings).save(
            update=2, validation={"bleu": 9.0}, tensors={"model": {}}, state={}
        )
    save_all(run, settings, {3: 4.0, 4: None})
    assert name(run.checkpoint("best")) == "step_00000001"


def test_no_best_is_named_where_none_is_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_all(run, replace(TrainingConfig(), keep_last_checkpoints=1, keep_best_checkpoints=1), {1: 5.0, 2: 1.0})
    save_all(run, replace(TrainingConfig(), keep_last_checkpoints=1, keep_best_checkpoints=0), {3: 9.0, 4: 8.0})
    assert not (tmp_path / "best").is_symlink()
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step_00000004"]
