"""Runs the steps of an experiment. Finished steps are skipped, so the same command continues after any stop."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.preparation.sources.task import Location, archives_of
from nmt_rela.preparation.sources.task_parser import load_task
from nmt_rela.reporting.run_summary import is_finished
from nmt_rela.reproduction.experiment import Experiment, write_config
from nmt_rela.reproduction.steps import Step, is_prepared, read_records, write_record
from nmt_rela.utils.errors import EXIT_DONE, EXIT_TERMINATED, DataError
from nmt_rela.utils.processes import terminate_with_parent

LOG = logging.getLogger(__name__)


def run_steps(experiment: Experiment, steps: Sequence[Step], *, quiet: bool = False) -> int:
    """Run the steps that are not up to date, one at a time; the exit status of the first that fails, or 0.

    ``quiet``: the commands of the package log warnings only.
    """
    with _only_process_in(experiment.output) as lock:
        write_config(experiment)
        for number, step in enumerate(steps, 1):
            label = f"[{number}/{len(steps)}] {step.name}"
            records = read_records(experiment.records)
            if step.is_up_to_date(records):
                LOG.info("%s: done before (%s)", label, records[step.name]["finished"])
                continue
            command = step.command()
            print(f"\n{label}\n$ {format_command(command)}", flush=True)
            start = time.monotonic()
            status = _execute(command, lock, quiet=quiet)
            run = step.run
            if not status and run is not None and not is_finished(RunDirectory(run.path), run.config.training):
                LOG.warning("%s: training stopped before its end; the same command continues", step.name)
                return EXIT_DONE
            if status != EXIT_DONE:
                LOG.error("%s: ended with status %d; the same command continues from here", step.name, status)
                return status
            record = {
                "name": step.name, "command": format_command(command), "fingerprint": step.fingerprint(),
                "seconds": round(time.monotonic() - start, 1), "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            }  # fmt: skip
            write_record(experiment.records, record)
    return EXIT_DONE


def plan_lines(experiment: Experiment, steps: Sequence[Step]) -> Iterator[str]:
    """The plan: the commands, which of them are done, and the disk space of the downloads. Writes nothing."""
    yield f"{experiment.name}, scale {experiment.scale}, in {experiment.output}"
    yield ""
    for number, step in enumerate(steps, 1):
        try:
            command = format_command(step.command())
        except DataError:  # the command depends on data that an earlier step prepares
            command = "(known when the data is prepared)"
        yield f"{number:>3}. {step.name}{' (done)' if step.is_up_to_date(read_records(experiment.records)) else ''}"
        yield f"     $ {command}"
    yield ""
    count, size, unknown = (0, 0, 0) if is_prepared(experiment.runs[0]) else download_size(experiment)
    note = f" ({unknown} of {count} archives have no published size and are not counted)" if unknown else ""
    existing = next(
        path for path in (experiment.output.absolute(), *experiment.output.absolute().parents) if path.exists()
    )
    yield f"downloads: {size / 1e9:.1f} GB{note}; free disk space: {shutil.disk_usage(existing).free / 1e9:.1f} GB"


def download_size(experiment: Experiment) -> tuple[int, int, int]:
    """Archives of the task that are not local, their bytes by the task file, and how many have no published size."""
    data = experiment.runs[0].config.data
    task = load_task(data.task).between(data.languages)
    archives = archives_of((*task.train, *task.dev, *task.tests), data.languages)
    remote = [archive for archive in archives if not any(location.path for location in archive.locations)]
    sizes = [max(map(_location_size, archive.locations)) for archive in remote]
    return len(sizes), sum(sizes), sizes.count(0)


def _location_size(location: Location) -> int:
    return sum(part.bytes for part in location.parts) if all(part.bytes for part in location.parts) else 0


def format_command(command: Sequence[str]) -> str:
    """A command as one would type it."""
    return shlex.join(["python", *command] if command[0].endswith(".py") else command)


def _execute(command: Sequence[str], lock: int, *, quiet: bool) -> int:
    """Run a command to its end and return its exit status; after SIGTERM or SIGINT 128 + the signal, whatever it was.

    SIGTERM is passed on, so that the command saves and stops. Ctrl-C reaches it without our help, because a terminal
    sends it to the whole process group.
    """
    if command[0].endswith(".py"):
        program = [sys.executable, *command]
    else:
        module = command[0].removeprefix("nmt-")
        program = [sys.executable, "-m", f"nmt_rela.commands.{module}", *command[1:], *["--quiet"] * quiet]
    child: subprocess.Popen[bytes] | None = None
    stopped = EXIT_DONE

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = 128 + number
        if number == signal.SIGTERM and child is not None:
            child.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # The command inherits the lock: if this process is killed, no other one starts before the command has ended.
        child = subprocess.Popen(program, pass_fds=(lock,), preexec_fn=terminate_with_parent)
        if stopped:  # the signal came before the command
            child.terminate()
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return stopped or (EXIT_TERMINATED if status < 0 else status)


@contextmanager
def _only_process_in(directory: Path) -> Iterator[int]:
    """Wait until no other process works in a directory. Yields the file descriptor of the lock.

    This is flock itself, because child processes must inherit the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("waiting for another process that works in %s", directory)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
