"""What a run tells the world: log lines, metrics.jsonl, TensorBoard, samples. A failure here never ends a run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.utils.text import write_lines

log = logging.getLogger("nmt_rela.training")


class Monitor:
    """The main rank's records."""

    def __init__(self, run: RunDirectory, *, update: int, validated: int) -> None:
        """An earlier process's records past ``update``, where the run stands, are dropped; those of validations past
        ``validated``.
        """
        self._run = run
        self._warned: set[str] = set()
        self._board: Any = None
        self._guard("the log file", self._open_log)
        self._guard("metrics.jsonl", lambda: _forget_after(run.metrics, update, validated))
        self._guard("TensorBoard", lambda: self._open_board(update))

    def record(self, event: str, update: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, where numbers that are not finite are null, and to TensorBoard under
        ``event/``.
        """
        line = json.dumps({"event": event, "update": update, **{name: finite(v) for name, v in values.items()}})

        def write_metrics() -> None:
            with open(self._run.metrics, "a", encoding="utf-8") as file:
                file.write(line + "\n")

        def write_board() -> None:
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(f"{event}/{name}", value, update)

        self._guard("metrics.jsonl", write_metrics)
        self._guard("TensorBoard", write_board)

    def samples(self, update: int, sources: Sequence[str], outputs: Sequence[str], references: Sequence[str]) -> None:
        """Write a few translations of the development set to samples/ and TensorBoard."""
        text = "\n".join(
            f"source     {source}\noutput     {output}\nreference  {reference}\n"
            for source, output, reference in zip(sources, outputs, references, strict=True)
        )

        def write() -> None:
            self._run.samples.mkdir(exist_ok=True)
            (self._run.samples / f"step_{update:08d}.txt").write_text(text, encoding="utf-8")
            if self._board is not None:
                self._board.add_text("samples", "    " + text.replace("\n", "\n    "), update)

        self._guard("samples", write)

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board is not None:
            self._guard("TensorBoard", self._board.close)
        for handler in [h for h in log.handlers if isinstance(h, logging.FileHandler)]:
            log.removeHandler(handler)
            handler.close()

    def _open_log(self) -> None:
        handler = logging.FileHandler(self._run.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)

    def _open_board(self, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self._run.tensorboard), purge_step=update + 1)  # type: ignore[no-untyped-call]

    def _guard(self, what: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # a full disk or a broken TensorBoard must not cost days of training
            if what not in self._warned:
                self._warned.add(what)
                log.warning("%s cannot be written (%s); training goes on without it", what, error)


def finite(value: float) -> float | None:
    """The number, or None, which JSON can say, for one that is not finite."""
    return value if math.isfinite(value) else None


def _forget_after(metrics: Path, update: int, validated: int) -> None:
    """Drop the records past ``update`` (``validated``), and lines that a kill or a full disk has cut off."""
    if metrics.exists():
        limits = {"validation": validated}
        lines = metrics.read_text(encoding="utf-8").split("\n")
        records = [(line, _event(line)) for line in lines]
        write_lines(metrics, [line for line, (event, at) in records if -1 < at <= limits.get(event, update)])


def _event(line: str) -> tuple[str, int]:
    """The event and update of a record; update -1 for a line that is none."""
    try:
        record = json.loads(line)
        return str(record["event"]), int(record["update"])
    except (ValueError, LookupError, TypeError):
        return "", -1
