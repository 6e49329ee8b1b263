"""Progress of long work: a bar where stderr is a terminal, otherwise a log line every 15 seconds."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

LOG = logging.getLogger(__name__)

_LOG_INTERVAL = 15.0
_FORMAT_WITH_NOTE = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class ProgressBar:
    """A counter of work, usable from any thread. A context manager.

    Args:
        title: what is done, such as ``fetching``.
        unit: what is counted; ``B`` is shown in kB, MB, GB.
        total: the amount of work, or 0 where it is not known. ``add_total`` may increase it.
        done: work that was done before.
        has_notes: every ``advance`` brings a note, which stands behind the bar; the caller logs its own lines.
    """

    def __init__(self, title: str, *, unit: str, total: int = 0, done: int = 0, has_notes: bool = False) -> None:
        self._title, self._unit, self._total = title, unit, total
        self._done, self._has_notes = done, has_notes
        self._bar: Any = None
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if sys.stderr is not None and sys.stderr.isatty() and LOG.isEnabledFor(logging.INFO):
            from tqdm import tqdm

            style: dict[str, Any] = {"total": self._total or None, "initial": self._done, "desc": self._title}
            style |= {"bar_format": _FORMAT_WITH_NOTE} if self._has_notes else {"unit": self._unit, "unit_scale": True}
            width = os.get_terminal_size(sys.stderr.fileno()).columns  # 0 in some, where tqdm would draw nothing
            self._bar = tqdm(leave=False, ncols=None if width else 80, dynamic_ncols=width > 0, **style)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def add_total(self, amount: int) -> None:
        """Increase the total (or decrease it, for a negative amount)."""
        with self._lock:
            self._total += amount
            if self._bar is not None:
                self._bar.total = self._total
                self._bar.refresh()

    @property
    def is_visible(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def advance(self, amount: int, note: str = "") -> None:
        """Count work as done (or as not done, for a negative amount)."""
        with self._lock:
            self._done += amount
            if self._bar is not None:
                self._bar.postfix = note
                self._bar.update(amount)
                return
            if self._has_notes:
                return
            now = time.monotonic()
            if now - self._last >= _LOG_INTERVAL:
                self._last = now
                LOG.info("%s", self._line(now - self._start))

    def _line(self, seconds: float) -> str:
        rate = self._done / max(seconds, 1e-9)
        text = f"{self._title}: {self._amount(self._done)}"
        if self._total:
            left = format_duration(max(self._total - self._done, 0) / max(rate, 1e-9))
            text += f" of {self._amount(self._total)} ({100 * self._done / self._total:.0f} %), {left} left"
        return f"{text}, {self._amount(rate)}/s"

    def _amount(self, value: float) -> str:
        return f"{value / 1e6:,.1f} MB" if self._unit == "B" else f"{value:,.0f} {self._unit}"


def format_duration(seconds: float) -> str:
    """Seconds in a readable unit: ``42 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
