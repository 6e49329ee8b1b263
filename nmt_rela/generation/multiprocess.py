"""Several processes that translate one stream: each has a translator of its own and takes a share of every window."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from nmt_rela.generation.options import Translation
from nmt_rela.generation.streaming import INITIAL_CHUNK, MAX_CHUNK, read_chunks, zip_prefixes
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.memory import trim_malloc

if TYPE_CHECKING:
    from nmt_rela.generation.translator import Translator

#: Windows that are with the workers at once: one that they translate, one that waits for them.
_AHEAD = 2
#: Seconds that a worker which was told to end is given.
_PATIENCE = 5.0

#: The lengths of a window's shares, or what reading raised; None at the end.
_Shares = Sequence[int] | BaseException | None


def translate_multiprocess(
    loads: Sequence[Callable[[], Translator]],
    lines: Iterable[str],
    *,
    prefixes: Iterable[str] | None = None,
    **settings: Any,
) -> Generator[Translation, None, None]:
    """What ``Translator.translate_stream(lines, …)`` gives, by one process for each of ``loads``.

    A load is called in its own, fresh process (it must be picklable) and makes that process's translator. Fresh
    processes import the main script again: a script calls this below ``if __name__ == "__main__"``. Translations come
    in input order, early when lines come slowly, and in bounded memory. The processes end when the iterator ends or is
    closed, and when this process ends in whatever way.

    Raises what a load or a translator raises: a UserError as it is, else a RuntimeError that holds the traceback; and
    RuntimeError when a process dies. Raises DataError when there are not as many ``prefixes`` as lines.
    """
    workers: list[_Worker] = []
    shares: queue.Queue[_Shares] = queue.Queue(maxsize=_AHEAD)
    ended = threading.Event()
    try:
        for number, load in enumerate(loads, start=1):
            workers.append(_Worker(number, load, settings))
        threading.Thread(
            target=_hand_out, args=(workers, lines, prefixes, shares, ended), name="nmt-rela-sharing", daemon=True
        ).start()
        while (lengths := shares.get()) is not None:
            if isinstance(lengths, BaseException):
                raise lengths
            for worker, length in zip(workers, lengths, strict=True):
                if length:
                    yield from worker.receive(workers)
    finally:
        ended.set()
        for worker in workers:
            worker.end()


def _hand_out(
    workers: Sequence[_Worker],
    lines: Iterable[str],
    prefixes: Iterable[str] | None,
    shares: queue.Queue[_Shares],
    ended: threading.Event,
) -> None:
    """Send every worker its share of each window, and tell the waiting thread how long the shares are."""
    first_line = 0
    count = len(workers)
    try:
        large = read_chunks(lines, initial=count * INITIAL_CHUNK, maximum=count * MAX_CHUNK)
        for window, begun in zip_prefixes(large, prefixes):
            parts = split_evenly(window, count)
            # First the lengths: a place in the queue is the permission to send.
            if not _put(shares, [len(part) for part in parts], ended):
                return
            sent = 0
            for worker, part in zip(workers, parts, strict=True):
                own = None if begun is None else begun[sent : sent + len(part)]
                if part and not worker.send(first_line + sent, part, own):
                    return  # It is gone, which the other thread, waiting for its answer, will see.
                sent += len(part)
            first_line += sent
        _put(shares, None, ended)
    except BaseException as error:  # what reading raises has to be raised where translations are waited for
        _put(shares, error, ended)


def _put(shares: queue.Queue[_Shares], item: _Shares, ended: threading.Event) -> bool:
    while not ended.is_set():
        with contextlib.suppress(queue.Full):
            shares.put(item, timeout=0.1)
            return True
    return False


def split_evenly(lines: Sequence[str], count: int) -> list[list[str]]:
    """``count`` consecutive parts of about as many characters; some are empty where there are few lines."""
    total = sum(len(line) + 1 for line in lines)
    parts: list[list[str]] = [[] for _ in range(count)]
    seen = 0
    for line in lines:
        middle = seen + (len(line) + 1) / 2
        parts[int(count * middle / total)].append(line)
        seen += len(line) + 1
    return parts


class _Worker:
    """A process, and the connection to it."""

    def __init__(self, number: int, load: Callable[[], Translator], settings: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._number = number
        self._connection, its_end = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(its_end, load, settings), name=f"translator {number}", daemon=True
        )
        with _without_interrupts():
            self._process.start()
        its_end.close()  # or the death of the process would not close it

    def send(self, first_line: int, lines: list[str], prefixes: list[str] | None) -> bool:
        """Hand over a share; whether the process was there to take it."""
        try:
            self._connection.send((first_line, lines, prefixes))
        except OSError:
            return False
        return True

    def receive(self, workers: Sequence[_Worker]) -> list[Translation]:
        """The translations of the oldest share that was sent. Raises what this process raised, and RuntimeError when
        any of ``workers`` has died.
        """
        sentinels = {worker._process.sentinel: worker for worker in workers}
        ready = connection.wait([self._connection, *sentinels])
        if self._connection in ready and (answer := self._answer()) is not None:
            return answer
        dead = next((worker for sentinel, worker in sentinels.items() if sentinel in ready), self)
        while dead._answer() is not None:  # the last thing it said may be why it ended
            pass
        dead._process.join(_PATIENCE)
        raise RuntimeError(
            f"translating process {dead._number} died, exit status {dead._process.exitcode} "
            "(-9 is often the system's answer to too little memory)"
        )

    def _answer(self) -> list[Translation] | None:
        """What the process sent; None when it sent nothing more. Raises what it raised."""
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, BaseException):
            raise answer
        translations: list[Translation] = answer
        return translations

    def end(self) -> None:
        """End the process now, whatever it is doing."""
        self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def _work(its_end: Connection, load: Callable[[], Translator], settings: dict[str, Any]) -> None:
    """What a worker does: translate one share after the other, until the connection closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        translator = load()
        while True:
            first_line, lines, prefixes = its_end.recv()
            its_end.send(translator.translate(lines, first_line=first_line, prefixes=prefixes, **settings))
            if len(lines) >= MAX_CHUNK // 2:  # about a whole share; see translate_stream
                trim_malloc()
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        with contextlib.suppress(ConnectionError):
            its_end.send(error if isinstance(error, UserError) else _told(error))


def _told(error: Exception) -> RuntimeError:
    """The error with its traceback as text, which is all of it that can be sent."""
    return RuntimeError("a translating process failed:\n" + "".join(traceback.format_exception(error)).rstrip())


def _end_with_parent() -> None:
    """End this process, whatever it is doing, when the one that started it is gone without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started here never see Ctrl-C, which a terminal sends to all: it is for the one that started them."""
    resource_tracker.ensure_running()  # its start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
