"""What a training shows while it runs: a bar where stderr is a terminal, log lines elsewhere; time so far and left."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from nmt_rela.config.schema import TrainingConfig
from nmt_rela.training.trainer_state import TrainerState
from nmt_rela.utils.progress import ProgressBar, format_duration

LOG = logging.getLogger(__name__)


class TrainingProgress:
    """Counts the updates and the time of this process. A context manager."""

    def __init__(self, settings: TrainingConfig, state: TrainerState) -> None:
        self._settings, self._state = settings, state
        self._start, self._first_update, self._elapsed_before = time.monotonic(), state.update, state.elapsed
        #: When the first update of this process ended. It is slower than the others: kernels are compiled.
        self._after_first = math.nan
        self._end = settings.max_updates
        self._updates_in_epoch = math.inf
        self._bar = ProgressBar("training", unit="updates", total=self._end, done=state.update, has_notes=True)
        self._latest = ""

    def __enter__(self) -> TrainingProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(error_type, error, trace)

    @property
    def elapsed(self) -> float:
        """Seconds of training over all starts of the run."""
        return self._elapsed_before + time.monotonic() - self._start

    @property
    def is_out_of_time(self) -> bool:
        """Whether this process has trained for ``training.max_hours``."""
        return self._seconds_allowed() <= 0

    @property
    def is_early_line_due(self) -> bool:
        """Whether it is the 1st, 2nd, 5th, 10th, … update of this process: a slow run must not look dead."""
        count = self._state.update - self._first_update
        return count < self._settings.log_every and str(count).rstrip("0") in ("1", "2", "5")

    def begin_epoch(self, num_updates: int) -> None:
        """Estimate the end of the run from the number of updates in the present epoch."""
        end, state, settings = self._settings.max_updates, self._state, self._settings
        self._updates_in_epoch = num_updates
        if settings.max_epochs:
            left = (settings.max_epochs - state.epoch) * num_updates - state.next_update_in_epoch
            end = min(end, state.update + left)
        self._bar.add_total(end - self._end)
        self._end = end

    def advance(self) -> None:
        """Count an update."""
        if math.isnan(self._after_first):
            self._after_first = time.monotonic()
        self._bar.advance(1, note=f"epoch {self._epoch():.1f}, {self._latest}{self._times()}")

    def show(self, values: Mapping[str, Any]) -> None:
        """Log the metrics of the updates since the last line; a bar shows them instead, and until the next."""
        speed = f"{values['target_tokens_per_second']:,.0f} tokens/s"
        self._latest = f"loss {values['loss']:.2f}, {speed}, "
        LOG.info(
            "update %s/%s  epoch %.1f  loss %.4f  %s  %s",
            f"{self._state.update:,}", f"{self._end:,}", self._epoch(), values["loss"],
            speed, self._times(), extra={"is_in_bar": self._bar.is_visible},
        )  # fmt: skip

    def _epoch(self) -> float:
        """Passes over the corpus, with the fraction of the present one."""
        return self._state.epoch + self._state.next_update_in_epoch / self._updates_in_epoch

    def _times(self) -> str:
        return f"after {format_duration(self.elapsed)}, {format_duration(self._seconds_left())} left"

    def _seconds_allowed(self) -> float:
        limit = self._settings.max_hours * 3600 if self._settings.max_hours else math.inf
        return limit - (time.monotonic() - self._start)

    def _seconds_left(self) -> float:
        done, now = self._state.update - self._first_update, time.monotonic()
        per_update = (now - self._after_first) / (done - 1) if done > 1 else (now - self._start) / max(done, 1)
        return max(min((self._end - self._state.update) * per_update, self._seconds_allowed()), 0.0)
