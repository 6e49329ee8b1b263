"""Which checkpoints of a run exist: saving, the newest intact one, and which may go."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.checkpoint import (
    clear_leftovers,
    list_checkpoints,
    load_state,
    step_name,
    verify_checkpoint,
    write_checkpoint,
)
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.utils.errors import CheckpointError

log = logging.getLogger("nmt_rela.training")


class CheckpointManager:
    """Writes checkpoints, links ``last`` and ``best``, and deletes those that are neither new nor good."""

    def __init__(self, run: RunDirectory, settings: TrainingConfig) -> None:
        self._run, self._settings = run, settings

    def newest(self) -> Path | None:
        """The newest checkpoint that passes verification; damaged ones are passed over with a warning. None where there
        is none at all. What a kill inside a save has left is cleared up first.

        Raises CheckpointError when there are some and none passes.
        """
        clear_leftovers(self._run.checkpoints)
        steps = list_checkpoints(self._run.checkpoints)
        for directory in reversed(steps):
            try:
                verify_checkpoint(directory)
            except CheckpointError as error:
                log.warning("%s; falling back to the checkpoint before it", error)
                continue
            self._link([path for path in steps if path.name <= directory.name])
            return directory
        if steps:
            raise CheckpointError(f"{self._run.checkpoints}: none of {len(steps)} checkpoints is intact")
        return None

    def save(self, *, update: int, score: float | None, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
        """Write the checkpoint of an update; ``score`` is that of its validation, if it had one.

        What cannot be written is warned of, and the checkpoints before it stay. Returns whether it was written.
        """
        directory = self._run.checkpoints / step_name(update)
        # Those past this update are the damaged ones that ``newest`` passed over: they must not push out intact ones.
        steps = [path for path in list_checkpoints(self._run.checkpoints) if path.name < directory.name]
        try:
            write_checkpoint(directory, tensors=tensors, state={**state, "score": score})
            kept = self._link([*steps, directory])
        except OSError as error:
            log.warning("checkpoint of update %d could not be written (%s); training goes on", update, error)
            return False
        for path in steps:
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        return True

    def _link(self, steps: Sequence[Path]) -> set[str]:
        """Let ``last`` and ``best`` name what they say; the names of the checkpoints to keep."""
        scores = {path.name: score for path in steps if (score := _score(path)) is not None}
        # Of equals the first is the best.
        best = sorted(scores, key=lambda name: (-scores[name], name))[: self._settings.keep_best_checkpoints]
        self._run.point("last", steps[-1].name)
        self._run.point("best", best[0] if best else None)
        return {path.name for path in steps[-self._settings.keep_last_checkpoints :]} | set(best)


def _score(directory: Path) -> float | None:
    try:
        score = load_state(directory).get("score")
    except CheckpointError:
        return None
    return None if score is None else float(score)
