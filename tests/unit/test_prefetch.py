"""Reading ahead: order, bounds, pauses, exceptions and the end of the thread."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from nmt_rela.utils.prefetch import prefetch


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "nmt-rela-prefetch"]


def wait_for_no_thread() -> None:
    deadline = time.monotonic() + 5.0
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_items_come_in_order() -> None:
    assert list(prefetch(range(1000), 3)) == list(range(1000))
    assert list(prefetch([], 1)) == []
    wait_for_no_thread()


def test_at_most_depth_items_are_read_ahead() -> None:
    taken = itertools.count()
    reader = prefetch((next(taken) for _ in itertools.count()), 4)
    assert next(reader) == 0
    time.sleep(0.1)
    assert next(taken) <= 1 + 4 + 1
    reader.close()
    wait_for_no_thread()


def test_an_exception_comes_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    reader = prefetch(failing(), 4)
    assert next(reader) == 1
    with pytest.raises(OSError, match="gone"):
        next(reader)
    wait_for_no_thread()


def test_each_pause_of_the_input_gives_one_none() -> None:
    resume = threading.Event()

    def slow() -> Iterator[str]:
        yield "a"
        assert resume.wait(10.0)
        yield "b"

    reader = prefetch(slow(), 4, idle_after=0.02)
    found = [next(reader), next(reader)]
    threading.Timer(0.2, resume.set).start()
    assert [*found, *reader] == ["a", None, "b"]


def test_a_reader_that_waits_does_not_keep_the_generator_open() -> None:
    resume = threading.Event()

    def waiting() -> Iterator[int]:
        yield 1
        resume.wait(10.0)

    reader = prefetch(waiting(), 1)
    assert next(reader) == 1
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 5.0
    resume.set()
    wait_for_no_thread()
