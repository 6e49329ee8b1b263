"""Which checkpoints of a run exist: saving, the newest intact one, and which may go."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt_rela.config.schema import TrainingConfig
from nmt_rela.errors import CheckpointError
from nmt_rela.storage.checkpoint import list_steps, load_state, step_name, verify_checkpoint, write_checkpoint
from nmt_rela.storage.run_directory import RunDirectory

log = logging.getLogger("nmt_rela.training")


class Keeper:
    """Saves, links ``last`` and ``best``, and keeps the newest ``keep_last`` and the best ``keep_best`` checkpoints."""

    def __init__(self, run: RunDirectory, settings: TrainingConfig) -> None:
        self._run, self._settings = run, settings
        #: The update of the newest checkpoint this process wrote or found.
        self.saved_update = -1

    def newest(self) -> Path:
        """The newest checkpoint that passes verification; damaged ones are passed over with a warning.

        Raises CheckpointError when none passes.
        """
        steps = list_steps(self._run.checkpoints)
        for directory in reversed(steps):
            try:
                verify_checkpoint(directory)
            except CheckpointError as error:
                log.warning("%s; falling back to the checkpoint before it", error)
                continue
            self.saved_update = int(directory.name.removeprefix("step_"))
            return directory
        raise CheckpointError(f"{self._run.checkpoints}: none of {len(steps)} checkpoints is intact")

    def save(
        self,
        *,
        update: int,
        score: float | None,
        is_best: bool,
        tensors: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> None:
        """Write the checkpoint of an update; ``score`` is that of its validation, if it had one.

        What cannot be written is warned of, and the checkpoints before it stay.
        """
        directory = self._run.checkpoints / step_name(update)
        # Those past this update are the damaged ones that ``newest`` passed over: they must not push out intact ones.
        earlier = [path for path in list_steps(self._run.checkpoints) if path.name < directory.name]
        scores = {path.name: s for path in earlier if (s := _score(path)) is not None}
        try:
            write_checkpoint(directory, tensors=tensors, state={**state, "score": score})
            self._run.point("last", directory)
            if is_best:
                self._run.point("best", directory)
            if score is not None:
                scores[directory.name] = score
        except OSError as error:
            log.warning("checkpoint of update %d could not be written (%s); training goes on", update, error)
            return
        self.saved_update = update
        self._prune([*earlier, directory], scores)

    def _prune(self, steps: Sequence[Path], scores: Mapping[str, float]) -> None:
        # The first of equals is the best, as it was when ``best`` was made to name it.
        best = sorted(scores, key=lambda name: (-scores[name], name))[: self._settings.keep_best]
        kept = {path.name for path in steps[-self._settings.keep_last :]} | set(best)
        for directory in steps:
            if directory.name not in kept:
                shutil.rmtree(directory, ignore_errors=True)


def _score(directory: Path) -> float | None:
    try:
        score = load_state(directory).get("score")
    except CheckpointError:
        return None
    return None if score is None else float(score)
