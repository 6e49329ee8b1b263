"""The records of a run: log, metrics, TensorBoard, samples, learning curve. A failure here never ends the run."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from nmt_rela.analysis.learning_curve import draw_learning_curve
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.utils.text import write_lines

LOG = logging.getLogger(__name__)
#: Fractions of the time for which a learning curve may be drawn: since the last one, and at the end of all training.
_DRAWING, _LAST_DRAWING = 0.01, 0.1
#: Seconds that the first drawing is thought to take.
_FIRST_DRAWING = 0.5
#: train.log receives the messages of all modules.
_PACKAGE_LOG = logging.getLogger("nmt_rela")


class _LogFile(logging.FileHandler):
    """train.log. After the first error, such as a full disk, nothing more is written."""

    def handleError(self, record: logging.LogRecord) -> None:
        _PACKAGE_LOG.removeHandler(self)
        LOG.warning("%s cannot be written (%s); training continues without it", self.baseFilename, sys.exc_info()[1])


class MetricLogger:
    """Writes the records. Only the main rank has one."""

    def __init__(self, run: RunDirectory, *, update: int, validated: int, elapsed: Callable[[], float]) -> None:
        """Drop the records that an earlier process wrote after ``update``, the state of the run; those of validations
        after ``validated``. ``elapsed`` returns the seconds of training so far.
        """
        self._run, self._elapsed = run, elapsed
        self._warned: set[str] = set()
        self._board: Any = None
        self._drawn, self._drawing_seconds, self._is_curve_stale = time.monotonic(), _FIRST_DRAWING, False
        self._best_effort("the log file", self._open_log)
        # The record of an epoch that begins here is written again.
        last = {"train": update, "validation": validated, "epoch": update - 1}
        self._best_effort("metrics.jsonl", lambda: self._drop_records(last))
        self._best_effort("TensorBoard", lambda: self._open_board(update))

    def log(self, event: str, update: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, with null for non-finite numbers, and scalars under ``event/`` to
        TensorBoard.
        """
        record: dict[str, Any] = {"event": event, "update": update}
        record |= {"time": round(time.time(), 3), "elapsed": round(self._elapsed(), 3)}  # time: TensorBoard's wall_time
        line = json.dumps(record | {name: finite_or_none(value) for name, value in values.items()})

        def write_metrics() -> None:
            with open(self._run.metrics, "a", encoding="utf-8") as file:
                file.write(line + "\n")

        def write_board() -> None:
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(f"{event}/{name}", value, update)

        self._is_curve_stale = self._drawing_seconds < math.inf
        self._best_effort("metrics.jsonl", write_metrics)
        self._best_effort("TensorBoard", write_board)

    def log_samples(
        self, update: int, sources: Sequence[str], outputs: Sequence[str], references: Sequence[str]
    ) -> None:
        """Write translations of the development set to samples/ and TensorBoard."""
        text = "\n".join(
            f"source     {source}\noutput     {output}\nreference  {reference}\n"
            for source, output, reference in zip(sources, outputs, references, strict=True)
        )

        def write() -> None:
            self._run.samples.mkdir(exist_ok=True)
            (self._run.samples / f"step_{update:08d}.txt").write_text(text, encoding="utf-8")
            if self._board is not None:
                self._board.add_text("samples", "    " + text.replace("\n", "\n    "), update)

        self._best_effort("samples", write)

    def draw_curve(self, *, is_last: bool = False) -> None:
        """Draw the learning curve anew if that takes little of the time since the last drawing, or of all training."""
        start = time.monotonic()
        seconds_allowed = self._elapsed() * _LAST_DRAWING if is_last else (start - self._drawn) * _DRAWING
        if self._drawing_seconds > seconds_allowed or not self._is_curve_stale:
            return
        self._is_curve_stale = False
        if find_spec("matplotlib") is None:
            LOG.info("no learning_curve.png: it needs matplotlib; run: pip install 'nmt_rela[analysis]'")
            self._drawing_seconds = math.inf
            return
        self._best_effort("learning_curve.png", lambda: draw_learning_curve(self._run))
        self._drawn = time.monotonic()
        self._drawing_seconds = self._drawn - start

    def close(self) -> None:
        """Flush and close the files."""
        self.draw_curve(is_last=True)
        if self._board is not None:
            self._best_effort("TensorBoard", self._board.close)
        for handler in [h for h in _PACKAGE_LOG.handlers if isinstance(h, logging.FileHandler)]:
            _PACKAGE_LOG.removeHandler(handler)
            handler.close()

    def _drop_records(self, last: Mapping[str, int]) -> None:
        if self._run.metrics.exists():
            kept = [record for record in self._run.read_metrics() if record["update"] <= last[record["event"]]]
            write_lines(self._run.metrics, map(json.dumps, kept))

    def _open_log(self) -> None:
        handler = _LogFile(self._run.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _PACKAGE_LOG.addHandler(handler)

    def _open_board(self, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self._run.tensorboard), purge_step=update + 1)  # type: ignore[no-untyped-call]

    def _best_effort(self, what: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # a full disk or a TensorBoard error must not end days of training
            if what not in self._warned:
                self._warned.add(what)
                LOG.warning("%s cannot be written (%s); training continues without it", what, error)


def finite_or_none(value: float) -> float | None:
    """The number, or None, which JSON can represent, for a non-finite one."""
    return value if math.isfinite(value) else None
