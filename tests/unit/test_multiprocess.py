"""One stream through several processes: order, latency, errors and the end of the processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from echo_translator import load

from nmt_rela.generation.device import worker_devices
from nmt_rela.generation.multiprocess import split_evenly, translate_multiprocess
from nmt_rela.utils.errors import ConfigError


def children() -> list[Any]:
    return multiprocessing.active_children()


def test_order_and_division_of_the_work() -> None:
    generator = random.Random(1)
    lines = ["x" * generator.randint(0, 60) for _ in range(3000)]
    found = list(translate_multiprocess([load, load, load], lines, mark="!"))
    assert [translation.source for translation in found] == lines
    assert [translation.text.split()[0] for translation in found] == [f"{i}!" for i in range(3000)]
    assert children() == []
    assert list(translate_multiprocess([load, load], [])) == []


def test_every_process_translates() -> None:
    lines = ["pause", "pause", "pause"]
    processes = {translation.text.split()[1] for translation in translate_multiprocess([load] * 3, lines)}
    assert len(processes) == 3


def test_lines_are_divided_by_their_characters() -> None:
    def parts(lines: list[str], count: int) -> list[list[str]]:
        return [lines[part] for part in split_evenly(lines, count)]

    assert parts(["a"], 3) == [["a"]]
    assert parts(["aaa", "b", "c", "dddd"], 2) == [["aaa", "b"], ["c", "dddd"]]
    assert parts([""] * 4, 4) == [[""]] * 4
    assert parts([], 2) == []
    generator = random.Random(1)
    lines = ["x" * generator.randint(0, 60) for _ in range(3000)]
    sizes = [sum(len(line) + 1 for line in part) for part in parts(lines, 3)]
    assert sum(map(len, parts(lines, 3))) == 3000
    assert max(sizes) < 1.1 * min(sizes)


def test_translations_come_before_the_end_of_the_stream() -> None:
    answered = threading.Event()

    def slow() -> Iterator[str]:
        yield "a"
        yield "b"
        assert answered.wait(60.0), "no answer before the end of the stream"
        yield "c"

    stream = translate_multiprocess([load, load], slow())
    assert [next(stream).source, next(stream).source] == ["a", "b"]
    answered.set()
    assert [translation.source for translation in stream] == ["c"]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("die", RuntimeError, "^a translation process died"),
        ("mistake", ConfigError, "^decoding.beam_size: found 0; accepted: 1 or more$"),
        ("fault", ZeroDivisionError, "^of our own making$"),
    ],
)
def test_an_error_in_a_process_is_raised(line: str, error: type[Exception], message: str) -> None:
    lines = iter(["a", "b", "c", "d", line, "f"])
    with pytest.raises(error, match=message) as raised:
        list(translate_multiprocess([load, load], lines))
    if line == "fault":  # with the traceback of the process
        assert "in translate" in str(raised.value.__cause__)
    assert children() == []


def test_a_death_is_seen_while_another_process_works() -> None:
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="process died"):
        list(translate_multiprocess([load, load], ["sleep", "die"]))
    assert time.monotonic() - started < 30  # "sleep" takes 60
    assert children() == []


def test_an_error_of_a_factory_is_raised() -> None:
    with pytest.raises(ConfigError, match=r"^no such run$"):
        list(translate_multiprocess([load, partial(load, "no such run")], ["pause", "pause"]))


def test_an_error_of_the_input_comes_after_the_lines_before_it() -> None:
    def failing() -> Iterator[str]:
        yield "a"
        raise OSError("gone")

    stream = translate_multiprocess([load, load], failing())
    assert next(stream).source == "a"
    with pytest.raises(OSError, match="gone"):
        next(stream)


def test_closing_ends_running_processes() -> None:
    stream = translate_multiprocess([load, load], ["a", "sleep"])
    next(stream)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 10
    assert children() == []


SCRIPT = """
import sys
from nmt_rela.commands import cli
from nmt_rela.generation.multiprocess import translate_multiprocess
from echo_translator import load

def command(arguments):
    for translation in translate_multiprocess([load, load], ["a", "sleep"]):
        print(translation.text, flush=True)

if __name__ == "__main__":
    sys.exit(cli.run("sleepers", command))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    """Ctrl-C reaches all processes of a terminal, a kill the first alone."""
    (tmp_path / "sleepers.py").write_text(SCRIPT, encoding="utf-8")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "sleepers.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        # What starts tests in the background may ignore Ctrl-C, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("0 ")
    if ending == signal.SIGINT:
        os.killpg(process.pid, ending)
    else:
        process.kill()
    log = process.communicate(timeout=60)[1]  # comes back when the last process has let go of the pipe
    assert process.returncode == (130 if ending == signal.SIGINT else -9)
    if ending == signal.SIGINT:
        assert log == "sleepers: interrupted\n"
    else:  # Python's resource tracker may warn that it cleaned up after the dead process
        assert "Traceback" not in log


def test_devices_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert worker_devices("cpu", None) == ["cpu"]
    assert worker_devices("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker_devices("auto", None) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_devices("cuda:1", None) == ["cuda:1"]
