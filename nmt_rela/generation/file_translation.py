"""Translation of one file into another: in shards for many machines, continued after a kill.

A file is cut into chunks by its number of lines alone. Chunks are translated independently of each other, so the text
does not depend on the shard, the number of processes or an interruption. While it grows, the output is
``<output>.partial``; after each chunk ``<output>.partial.json`` records how far it is valid, and what it was made with.
"""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from filelock import FileLock, Timeout

from nmt_rela.generation.streaming import MAX_CHUNK, Chunk, number_chunks
from nmt_rela.utils.errors import ConfigError, DataError
from nmt_rela.utils.files import atomic_write, file_lock, name_file_in_errors, read_json
from nmt_rela.utils.text import decode_lines, open_text, read_lines

LOG = logging.getLogger(__name__)

#: Chunks of a file at least, if it has enough lines: the parts that shards and processes divide among them.
_MIN_CHUNKS = 64
_MIN_LINES = 64
#: Compression of the output by its suffix. Chunks compressed one by one make a valid file.
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
_OPENERS: dict[str, Callable[..., object]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_output(path: Path) -> BinaryIO:
    """An output file, compressed by its suffix, that is written as a stream."""
    return cast(BinaryIO, _OPENERS.get(path.suffix.lower(), open)(path, "wb"))


def plan_chunks(lines: int, *, shard: tuple[int, int] = (1, 1)) -> list[range]:
    """The line numbers of each chunk of a file, or of shard I of N: consecutive chunks, as many for each shard."""
    size = min(max(lines // _MIN_CHUNKS, _MIN_LINES), MAX_CHUNK)
    chunks = [range(start, min(start + size, lines)) for start in range(0, lines, size)]
    index, count = shard
    return chunks[len(chunks) * (index - 1) // count : len(chunks) * index // count]


def read_planned_chunks(path: Path, chunks: Sequence[range], *, prefixes: Path | None) -> Iterator[Chunk]:
    """The lines of consecutive chunks of a file, and their prefixes.

    Raises DataError where the file has fewer lines than the chunks.
    """
    if not chunks:
        return
    first, last = chunks[0].start, chunks[-1].stop

    def take(lines: Iterator[str], chunk: range) -> list[str]:
        found = list(islice(lines, len(chunk)))
        if len(found) < len(chunk):
            raise DataError(f"{path}: has lost lines since they were counted; accepted: a file that does not change")
        return found

    with open_text(path) as stream:
        lines = islice(decode_lines(stream, str(path), replace=True), first, last)
        given = None if prefixes is None else islice(read_lines(prefixes), first, last)
        yield from number_chunks((take(lines, chunk) for chunk in chunks), given, first_line=first)


class PartialOutput:
    """An output file that grows chunk by chunk. A context manager; at the end of the block the file has its name.

    Raises ConfigError where another process writes it, or an interrupted one began it with other ``settings``.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        path = path.resolve() if path.is_symlink() else path  # a link stays one
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._record = path.with_name(f"{path.name}.partial.json")
        self._settings = json.loads(json.dumps(settings))
        self._compress = _COMPRESSORS.get(path.suffix.lower(), bytes)
        #: Chunks that it holds.
        self.chunks = 0
        self._bytes = 0

    def __enter__(self) -> PartialOutput:
        self._lock = self._acquire()
        try:
            self._read_record()
            self._file = open(self._partial, "r+b" if self.chunks else "wb")
        except BaseException:
            self._release()
            raise
        self._file.truncate(self._bytes)
        self._file.seek(self._bytes)
        return self

    def append(self, lines: Iterable[str]) -> None:
        """Add the lines of the next chunk."""
        data = self._compress("".join(f"{line}\n" for line in lines).encode("utf-8"))
        with name_file_in_errors(self._partial):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())  # the record must not outlive in a power cut what it records
        self.chunks += 1
        self._bytes += len(data)
        with atomic_write(self._record) as stream:
            record = {"settings": self._settings, "chunks": self.chunks, "bytes": self._bytes}
            stream.write(json.dumps(record).encode("utf-8"))

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with name_file_in_errors(self._partial):
                if error is None and not self._bytes:
                    self._file.write(self._compress(b""))  # gunzip does not take an empty file
                self._file.close()
            if error is None:
                os.replace(self._partial, self._path)
                self._record.unlink(missing_ok=True)
            elif not self.chunks:
                self._partial.unlink()
        finally:
            self._release()

    def _acquire(self) -> FileLock | None:
        path = self._path.with_name(f".{self._path.name}.lock")
        try:
            return file_lock(path, wait=False)
        except Timeout:
            raise ConfigError(f"--output {self._path}: another process is writing it; accepted: another file") from None
        except NotImplementedError as error:
            LOG.warning("%s cannot be locked (%s); no other process may write %s", path, error, self._path)
            return None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _read_record(self) -> None:
        if not self._partial.exists():  # its record has outlived it where a kill came just after the end
            self._record.unlink(missing_ok=True)
        if not self._record.exists():
            return
        try:
            record = read_json(self._record)
            began, self.chunks, self._bytes = dict(record["settings"]), int(record["chunks"]), int(record["bytes"])
            if self._partial.stat().st_size < self._bytes:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{self._record}: damaged; remove it and {self._partial.name} to start over") from None
        for name in self._settings.keys() | began.keys():
            if self._settings.get(name) != began.get(name):
                raise ConfigError(
                    f"--output {self._path}: was begun with {name} {began.get(name)}, now {self._settings.get(name)}; "
                    f"set it back, or remove {self._partial} to start over"
                )
