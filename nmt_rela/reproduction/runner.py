"""Doing the steps: what is done is skipped, what runs is watched, and a stop at any moment loses nothing."""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.reproduction.experiment import Experiment, Run, write_configuration
from nmt_rela.reproduction.step_state import Journal
from nmt_rela.reproduction.steps import Step, is_trained
from nmt_rela.utils.errors import EXIT_DONE, EXIT_INTERNAL_ERROR, EXIT_TERMINATED
from nmt_rela.utils.progress import format_duration

log = logging.getLogger("nmt_rela.reproduction")

#: Seconds between two lines about a step that takes long.
_PATIENCE = 60.0

#: Bytes at the end of a run's records that hold the last one.
_TAIL = 8192

#: Linux's way to send a process a signal when its parent ends.
_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_steps(experiment: Experiment, steps: Sequence[Step], journal: Journal) -> int:
    """Do what is not done, one process at a time; the exit status of the first command that fails, or 0."""
    directory = experiment.output
    with _exclusive(directory) as lock, _Signals() as signals:
        write_configuration(experiment)
        for number, step in enumerate(steps):
            record = journal.record(step.name)
            place = f"[{number + 1}/{len(steps)}] {step.name}"
            if record is not None and step.stands(record.fingerprint):
                log.info("%s: done before (%s)", place, record.finished)
                continue
            command = step.command()
            print(f"\n{place}{_expectation(steps[number:], journal)}\n$ {shown(command)}", flush=True)
            watch = _Watch(step, steps[number + 1 :], journal)
            status = _execute(command, lock, signals, watch)
            journal.note_unfinished(step.name, watch.seconds)
            if status == EXIT_DONE and step.run is not None and not is_trained(step.run):
                log.warning("%s: training has stopped before its end; the same command again continues", step.name)
                return signals.exit_code
            if status != EXIT_DONE:
                log.error("%s: ended with status %d; the same command again continues from here", step.name, status)
                return status if status > 0 else EXIT_INTERNAL_ERROR
            journal.finish(
                step.name, group=step.group, command=shown(command),
                fingerprint=step.fingerprint(), seconds=watch.seconds,
            )  # fmt: skip
    return EXIT_DONE


def shown(command: Sequence[str]) -> str:
    """A command as a person would type it."""
    return shlex.join(["python", *command] if command[0].endswith(".py") else command)


def _expectation(steps: Sequence[Step], journal: Journal) -> str:
    """How long this and all later steps are expected to take, from what steps of their groups took."""
    own = _expected(steps[0], journal)
    total, unknown = expected_seconds(steps, journal)
    if own is None:
        return ""
    end = time.strftime("%a %H:%M", time.localtime(time.time() + total))
    return f" (about {format_duration(own)}; everything is done {'not before' if unknown else 'about'} {end})"


def expected_seconds(steps: Sequence[Step], journal: Journal) -> tuple[float, bool]:
    """Seconds that steps will take, and whether there are some that nothing is known of."""
    found = [_expected(step, journal) for step in steps]
    return sum(seconds for seconds in found if seconds is not None), None in found


def _expected(step: Step, journal: Journal) -> float | None:
    """The mean of finished steps of the group, less what was spent on this one already."""
    taken = [record.seconds for record in journal.records() if record.group == step.group]
    if not taken:
        return None
    return max(sum(taken) / len(taken) - journal.seconds_so_far(step.name), 0.0)


class _Watch:
    """Says now and then how a step is doing, and notes how long it has taken."""

    def __init__(self, step: Step, later: Sequence[Step], journal: Journal) -> None:
        self._step, self._later, self._journal = step, later, journal
        self._before = journal.seconds_so_far(step.name)
        self._start = self._noted = time.monotonic()
        self._first: tuple[int, float] | None = None

    @property
    def seconds(self) -> float:
        """Of this attempt and those before."""
        return self._before + time.monotonic() - self._start

    def look(self) -> None:
        """To be called often."""
        if time.monotonic() - self._noted < _PATIENCE:
            return
        self._noted = time.monotonic()
        self._journal.note_unfinished(self._step.name, self.seconds)
        if self._step.run is not None:
            self._look_at_training()

    def _look_at_training(self) -> None:
        run = self._step.run
        assert run is not None
        done, wanted = _updates_logged(run), run.config.training.max_updates
        if self._first is None or self._first[0] == 0:
            self._first = done, time.monotonic()
        updates, since = done - self._first[0], time.monotonic() - self._first[1]
        if not updates:
            return
        left = (wanted - done) * since / updates
        # Runs that are still to be trained are taken to need as long as this one.
        later, unknown = expected_seconds([step for step in self._later if step.group != "train"], self._journal)
        whole = wanted * since / updates
        total = left + later + whole * sum(step.group == "train" for step in self._later)
        end = time.strftime("%a %H:%M", time.localtime(time.time() + total))
        log.info(
            "%s: update %s of %s, about %s left; everything is done %s %s",
            self._step.name, f"{done:,}", f"{wanted:,}", format_duration(left),
            "not before" if unknown else "about", end,
        )  # fmt: skip


def _updates_logged(run: Run) -> int:
    """Where a run stands by its records, which are more frequent than its checkpoints."""
    try:
        with open(RunDirectory(run.path).metrics, "rb") as stream:
            stream.seek(-min(_TAIL, stream.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = stream.read().splitlines()
        return int(json.loads(lines[-1])["update"])
    except (OSError, ValueError, KeyError, IndexError):  # no record yet, or one that is being written
        return 0


class _Signals:
    """SIGTERM and SIGINT go to the command that runs, which saves what it has; then no other is started."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.exit_code = EXIT_DONE
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def __enter__(self) -> _Signals:
        for number in self._before:
            signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        if self.child is not None and self.child.poll() is None:
            # Ctrl-C reaches the whole group by itself; what is sent to this process alone is passed on.
            if number == signal.SIGTERM:
                self.child.send_signal(number)
        else:
            raise SystemExit(self.exit_code)


def _execute(command: Sequence[str], lock: int, signals: _Signals, watch: _Watch) -> int:
    """Run a command and wait for its end; its exit status."""
    program = [sys.executable, *command]
    if not command[0].endswith(".py"):
        program = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    # The lock is the child's too: should this process be killed, nobody else starts before the child has ended.
    child = subprocess.Popen(program, pass_fds=(lock,), preexec_fn=_end_with_parent)
    signals.child = child
    while True:
        try:
            status = child.wait(timeout=1.0)
            break
        except subprocess.TimeoutExpired:
            watch.look()
    signals.child = None
    if signals.exit_code:
        return signals.exit_code
    return EXIT_TERMINATED if status < 0 else status


def _end_with_parent() -> None:
    """Have the child stopped (SIGTERM, so that it saves) when this process is killed; Linux can do that."""
    if _LIBC is not None:
        _LIBC.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


@contextmanager
def _exclusive(directory: Path) -> Iterator[int]:
    """One process at a time in a directory; others wait. The lock's file descriptor."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that works in %s", directory)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
