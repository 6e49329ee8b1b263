"""The checkpoint manager of a training run: saving, pruning, and the newest valid checkpoint."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.checkpoint import (
    checkpoint_name,
    list_checkpoints,
    rank_by_score,
    remove_stale_files,
    verify_checkpoint,
    write_checkpoint,
)
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import TrainingConfig
from nmt_rela.utils.errors import CheckpointError

LOG = logging.getLogger(__name__)


class CheckpointManager:
    """Saves checkpoints, links ``last`` and ``best``, and keeps the newest and the best ones by the settings."""

    def __init__(self, run: RunDirectory, settings: TrainingConfig) -> None:
        self._run, self._settings = run, settings

    def latest_valid(self) -> Path | None:
        """The newest checkpoint that passes verification, or None if there is no checkpoint.

        Damaged ones are skipped with a warning. The remains of a killed save are cleaned up first. Raises
        CheckpointError if there are checkpoints and none passes.
        """
        remove_stale_files(self._run.checkpoints)
        steps = list_checkpoints(self._run.checkpoints)
        for directory in reversed(steps):
            try:
                verify_checkpoint(directory)
            except CheckpointError as error:
                LOG.warning("%s; using the checkpoint before it", error)
                continue
            self._update_links([path for path in steps if path.name <= directory.name])
            return directory
        if steps:
            raise CheckpointError(f"{self._run.checkpoints}: none of {len(steps)} checkpoints is intact")
        return None

    def save(
        self,
        *,
        update: int,
        validation: Mapping[str, float | None] | None,
        tensors: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> bool:
        """Write the checkpoint of an update and delete those that are no longer kept.

        ``validation``: the results of its validation, if there was one. If the checkpoint cannot be written, a warning
        is logged, the earlier checkpoints stay, and the result is False.
        """
        directory = self._run.checkpoints / checkpoint_name(update)
        # Later checkpoints are the damaged ones that `latest_valid` skipped; they must not displace valid ones.
        steps = [path for path in list_checkpoints(self._run.checkpoints) if path.name < directory.name]
        try:
            write_checkpoint(directory, tensors=tensors, state={**state, "validation": validation})
            kept = self._update_links([*steps, directory])
        except OSError as error:
            LOG.warning("checkpoint of update %d could not be written (%s); training continues", update, error)
            return False
        for path in steps:
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        return True

    def _update_links(self, steps: Sequence[Path]) -> set[str]:
        """Point ``last`` and ``best`` at their checkpoints; return the names of the checkpoints to keep."""
        ranked = rank_by_score(steps, self._settings.checkpoint_metric)
        best = [path.name for path, _ in ranked[: self._settings.keep_best_checkpoints]]
        self._run.link_checkpoint("last", steps[-1].name)
        self._run.link_checkpoint("best", best[0] if best else None)
        return {path.name for path in steps[-self._settings.keep_last_checkpoints :]} | set(best)
