"""Several processes that translate one stream, each with a translator of its own (say, one per GPU)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Any

from nmt_rela.generation.options import Translation
from nmt_rela.generation.streaming import INITIAL_CHUNK, MAX_CHUNK, Chunk, number_chunks, read_chunks
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.prefetch import prefetch

if TYPE_CHECKING:
    from nmt_rela.generation.translator import Translator

#: Set once in each worker process.
_translator: Translator


def translate_multiprocess(
    factories: Sequence[Callable[[], Translator]],
    lines: Iterable[str],
    *,
    prefixes: Iterable[str] | None = None,
    **overrides: Any,
) -> Generator[Translation, None, None]:
    """``Translator.translate_stream(lines, …)`` by one process per factory, as `translate_chunks` does it."""
    workers = len(factories)
    chunks = read_chunks(lines, initial=workers * INITIAL_CHUNK, maximum=workers * MAX_CHUNK)

    def parts() -> Iterator[Chunk]:
        for chunk in number_chunks(chunks, prefixes):
            for part in split_evenly(chunk.lines, workers):
                part_prefixes = None if chunk.prefixes is None else chunk.prefixes[part]
                yield Chunk(chunk.first_line + part.start, chunk.lines[part], part_prefixes)

    with closing(translate_chunks(factories, parts(), **overrides)) as translated:
        for translations in translated:
            yield from translations


def translate_chunks(
    factories: Sequence[Callable[[], Translator]], chunks: Iterable[Chunk], **overrides: Any
) -> Generator[list[Translation], None, None]:
    """The translations of each chunk, in order, by one process per factory.

    Each factory is called in a new process, so it must be picklable; it returns that process's translator. New
    processes import the main script again: a script calls this below ``if __name__ == "__main__"``. The processes end
    when the generator ends or is closed, and when this process dies.

    Raises what a factory, a translator or ``chunks`` raises, and RuntimeError if a process dies.
    """
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[Callable[[], Translator]] = context.SimpleQueue()
    for factory in factories:
        queue.put(factory)
    errors: SimpleQueue[UserError] = context.SimpleQueue()
    worker_end, parent_end = context.Pipe(duplex=False)
    workers = len(factories)
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(queue, errors, worker_end)
    )

    def submit() -> Iterator[Future[list[Translation]]]:
        # Worker processes inherit the signal mask of this thread and so never see Ctrl-C, which a terminal sends to
        # all processes. Starting the resource tracker would reset the mask, so it starts first.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for chunk in chunks:
            yield executor.submit(_translate, chunk, overrides)
            # The executor starts a process only after it has woken the thread that watches them, which so may wait
            # without watching the last one; another call wakes it again.
            executor.submit(os.getpid)

    try:
        with closing(prefetch(submit(), 2 * workers)) as futures:
            for future in futures:
                yield future.result()
    except BrokenProcessPool:
        if not errors.empty():
            raise errors.get() from None
        raise RuntimeError(
            "a translation process died; often the system kills a process because memory is short"
        ) from None
    finally:
        parent_end.close()  # ends workers at once, also those that are translating
        executor.shutdown(cancel_futures=True)


def split_evenly(lines: Sequence[str], count: int) -> list[slice]:
    """At most ``count`` consecutive slices, not empty, of about as many characters each."""
    total = sum(len(line) + 1 for line in lines)
    ends = [0] * count  # exclusive end of each slice
    seen = 0
    for number, line in enumerate(lines, start=1):
        middle = seen + (len(line) + 1) / 2
        ends[int(count * middle / total)] = number
        seen += len(line) + 1
    slices = []
    start = 0
    for end in ends:
        if end > start:
            slices.append(slice(start, end))
            start = end
    return slices


def _start_worker(
    factories: SimpleQueue[Callable[[], Translator]], errors: SimpleQueue[UserError], worker_end: Connection
) -> None:
    global _translator
    threading.Thread(target=_exit_with_parent, args=(worker_end,), daemon=True).start()
    try:
        _translator = factories.get()()
    except UserError as error:  # the pool would log it and raise BrokenProcessPool
        errors.put(error)
        os._exit(1)


def _exit_with_parent(worker_end: Connection) -> None:
    """End this process as soon as the parent's end of the pipe is closed, by the parent or by its death."""
    worker_end.poll(None)
    os._exit(1)


def _translate(chunk: Chunk, overrides: dict[str, Any]) -> list[Translation]:
    return _translator.translate_chunk(chunk, **overrides)
