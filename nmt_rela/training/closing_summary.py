"""The last lines of nmt-train: why training ended, the best validation, and the commands that come next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from nmt_rela.checkpoints.checkpoint import update_of
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import Config
from nmt_rela.metrics.translation import LABELS, format_score
from nmt_rela.training.trainer_state import TrainerState
from nmt_rela.utils.progress import format_duration


def closing_summary(run: RunDirectory, config: Config, state: TrainerState, *, stopped_by: str | None) -> Iterator[str]:
    """Lines for the log. ``stopped_by`` is the signal that has stopped this process before the end of the run."""
    settings, path = config.training, shlex.quote(str(run.path))
    if (reason := state.end_reason(settings)) is None:
        other = "training.max_hours is over" if settings.max_hours else "a signal to another rank"
        reason = f"{stopped_by or other}; the same command continues the run"
    how = "finished" if state.is_finished(settings) else "stopped"
    yield f"{how} at update {state.update:,} after {format_duration(state.elapsed)}: {reason}"
    if (run.path / "best").exists():
        best = run.checkpoint("best").resolve()
        metric = settings.checkpoint_metric
        values = [
            record.get(metric)
            for record in run.read_metrics()
            if (record.get("event"), record.get("update")) == ("validation", update_of(best))
        ]
        known = values and values[-1] is not None
        score = f"{LABELS.get(metric, metric)} {format_score(metric, {metric: values[-1]})} " if known else ""
        yield f"best validation: {score}at update {update_of(best):,}, checkpoint {run.path / 'best'}"
    if run.learning_curve.exists():
        yield f"learning curve: {run.learning_curve}"
    if state.update == 0:  # there is no checkpoint yet
        return
    # No output file: any name could be one of the user's, such as the text that was trained on.
    commands = [f"nmt-average --model {path}", f"nmt-evaluate --model {path}", f"nmt-translate --model {path} < FILE"]
    yield "\n    ".join(["next:", *commands, f"nmt-analyze --model {path}"])
