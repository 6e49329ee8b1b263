"""A stream of lines as windows: large when lines come fast, small when they come slowly."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from itertools import islice

from nmt_rela.utils.errors import DataError

#: Lines in the first window. Windows double, so that the first translations appear early and the later work is
#: batched well.
FIRST = 64
#: Lines in a window at most: what bounds the memory.
LARGEST = 4096
#: Seconds to wait for another line before a window that has some is given out.
GRACE = 0.05
#: Seconds after which the reader that waits for room looks whether it is still wanted.
_PATIENCE = 0.1


def windows(lines: Iterable[str], *, first: int = FIRST, largest: int = LARGEST) -> Iterator[list[str]]:
    """The lines in order, in lists that are never empty. A thread reads ahead, at most one window of the largest size.

    What reading raises is raised here, after the lines before it. The thread ends with the lines, or soon after the
    iterator is closed (one that is stuck in reading does not keep the process alive).
    """
    made: queue.Queue[str | BaseException | None] = queue.Queue(maxsize=largest)
    closed = threading.Event()

    def put(item: str | BaseException | None) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=_PATIENCE)
                return True
        return False

    def read() -> None:
        try:
            for line in lines:
                if not put(line):
                    return
            put(None)
        except BaseException as error:  # whatever ends this thread has to be seen by the one that waits for it
            put(error)

    threading.Thread(target=read, name="nmt-rela-reading", daemon=True).start()
    size = first
    try:
        end: str | BaseException | None = ""
        while isinstance(end, str):
            window: list[str] = []
            end = made.get()
            while isinstance(end, str):
                window.append(end)
                if len(window) == size:
                    break
                try:
                    end = made.get(timeout=GRACE)
                except queue.Empty:
                    break
            if window:
                yield window
                size = min(2 * size, largest) if len(window) == size else size
        if end is not None:
            raise end
    finally:
        closed.set()


def prefixes_of(
    windows: Iterable[list[str]], prefixes: Iterable[str] | None
) -> Iterator[tuple[list[str], list[str] | None]]:
    """Every window with its part of ``prefixes``, a line for a line; with None where there are none.

    Raises:
        DataError: there are more prefixes than lines, or fewer.
    """
    if prefixes is None:
        for window in windows:
            yield window, None
        return
    left, count = iter(prefixes), 0
    for window in windows:
        taken = list(islice(left, len(window)))
        count += len(taken)
        if len(taken) < len(window):
            raise DataError(f"prefixes: {count:,} lines, but there are more to translate; accepted: one for each")
        yield window, taken
    if next(left, None) is not None:
        raise DataError(f"prefixes: more than the {count:,} lines to translate; accepted: one for each")
