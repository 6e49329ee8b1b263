"""A stream of lines as chunks: large when lines come fast, small when they come slowly."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from itertools import islice

from nmt_rela.utils.errors import DataError

#: Lines in the first chunk. Chunks double in size: the first translations appear early, later work is batched well.
INITIAL_CHUNK = 64
#: Lines per chunk at most. This bounds the memory.
MAX_CHUNK = 4096
#: Seconds without a new line after which an unfinished chunk is given out.
FLUSH_AFTER = 0.05
#: Seconds after which the reader that waits for room looks whether it is still wanted.
_PATIENCE = 0.1


def read_chunks(lines: Iterable[str], *, initial: int = INITIAL_CHUNK, maximum: int = MAX_CHUNK) -> Iterator[list[str]]:
    """The lines in order, in lists that are never empty. A thread reads ahead, at most one chunk of the largest size.

    What reading raises is raised here, after the lines before it. The thread ends with the lines, or soon after the
    iterator is closed (one that is stuck in reading does not keep the process alive).
    """
    made: queue.Queue[str | BaseException | None] = queue.Queue(maxsize=maximum)
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
    size = initial
    try:
        end: str | BaseException | None = ""
        while isinstance(end, str):
            chunk: list[str] = []
            end = made.get()
            while isinstance(end, str):
                chunk.append(end)
                if len(chunk) == size:
                    break
                try:
                    end = made.get(timeout=FLUSH_AFTER)
                except queue.Empty:
                    break
            if chunk:
                yield chunk
                size = min(2 * size, maximum) if len(chunk) == size else size
        if end is not None:
            raise end
    finally:
        closed.set()


def zip_prefixes(
    chunks: Iterable[list[str]], prefixes: Iterable[str] | None
) -> Iterator[tuple[list[str], list[str] | None]]:
    """Every chunk with its part of ``prefixes``, a line for a line; with None where there are none.

    Raises:
        DataError: there are more prefixes than lines, or fewer.
    """
    if prefixes is None:
        for chunk in chunks:
            yield chunk, None
        return
    left, count = iter(prefixes), 0
    for chunk in chunks:
        taken = list(islice(left, len(chunk)))
        count += len(taken)
        if len(taken) < len(chunk):
            raise DataError(f"prefixes: {count:,} lines, but there are more to translate; accepted: one for each")
        yield chunk, taken
    if next(left, None) is not None:
        raise DataError(f"prefixes: more than the {count:,} lines to translate; accepted: one for each")
