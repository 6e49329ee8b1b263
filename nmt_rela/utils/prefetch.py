"""Reading ahead in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar, overload

Item = TypeVar("Item")


@overload
def prefetch(iterable: Iterable[Item], depth: int) -> Generator[Item, None, None]: ...


@overload
def prefetch(iterable: Iterable[Item], depth: int, *, idle_after: float) -> Generator[Item | None, None, None]: ...


def prefetch(iterable: Iterable[Any], depth: int, *, idle_after: float | None = None) -> Generator[Any, None, None]:
    """The items of ``iterable``, in order, read by a thread that is at most ``depth`` items ahead.

    With ``idle_after``, one None follows whenever no item came for that many seconds. An exception of ``iterable`` is
    raised after the items before it. The thread ends with the items, or with the next item after the generator is
    closed. A thread that waits for input does not keep the process alive.
    """
    items: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in iterable:
                items.put((item, None, False))
                if closed.is_set():
                    return
        except BaseException as raised:  # whatever ends this thread is raised where the items are awaited
            error = raised
        items.put((None, error, True))

    threading.Thread(target=produce, name="nmt-rela-prefetch", daemon=True).start()
    timeout = idle_after
    try:
        while True:
            try:
                item, error, ended = items.get(timeout=timeout)
            except queue.Empty:
                yield None
                timeout = None  # one None per pause
                continue
            timeout = idle_after
            if error is not None:
                raise error
            if ended:
                return
            yield item
    finally:
        closed.set()
        while not items.empty():  # makes room for a producer that waits in put()
            items.get_nowait()
