"""Progress of long work: a bar where stderr is a terminal, otherwise a log line every 15 seconds."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any

LOG = logging.getLogger(__name__)

_LOG_INTERVAL = 15.0


class ProgressBar:
    """A counter of work, usable from any thread. A context manager.

    Args:
        title: what is done, such as ``fetching``.
        unit: what is counted; ``B`` is shown in kB, MB, GB.
        total: the amount of work, or 0 where it is not known. ``add_total`` may increase it.
    """

    def __init__(self, title: str, *, unit: str, total: int = 0) -> None:
        self._title, self._unit, self._total = title, unit, total
        self._done = 0
        self._bar: Any = None
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            total = self._total or None
            self._bar = tqdm(total=total, desc=self._title, unit=self._unit, unit_scale=True, leave=False)
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

    def advance(self, amount: int) -> None:
        """Count work as done (or as not done, for a negative amount)."""
        with self._lock:
            self._done += amount
            if self._bar is not None:
                self._bar.update(amount)
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
