"""Reading members of archives as streams. Nothing is unpacked to disk, and no archive is trusted.

A member is found by the name the task file gives it. Names that are absolute or climb with ``..``, links, devices and
sparse members are refused, and so is an archive that expands beyond reason.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import fnmatch
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from nmt_rela.preparation.sources.task import ARCHIVE_KINDS
from nmt_rela.utils.errors import DataError, UserError, did_you_mean

#: An archive may expand this far whatever its size, and further only up to so many times its packed size.
FREE_EXPANSION = 64 << 20
MAX_EXPANSION = 100
#: Memory that unpacking one xz stream may take. The highest level of xz asks for 65 MiB, a hostile header for any size.
MAX_XZ_MEMORY = 512 << 20

_BLOCK = 1 << 20
_LIBRARY_ERRORS = (zlib.error, struct.error, zipfile.BadZipFile, tarfile.TarError)
_DECOMPRESSORS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "": lambda stream: stream,
    "gz": lambda stream: cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb")),
    "xz": lambda stream: cast(BinaryIO, _Xz(stream)),
    "bz2": lambda stream: cast(BinaryIO, bz2.BZ2File(stream)),
}


#: How a member of a zip may be packed. Others may ask for any amount of memory.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class CorruptArchiveError(DataError):
    """An archive that is truncated or corrupt, so that another copy may be better."""

    archive: LocalArchive | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalArchive:
    """An archive on this machine: its files in the order in which they are joined, and how it is packed."""

    name: str
    kind: str
    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Packed size in bytes."""
        return sum(path.stat().st_size for path in self.paths)

    def __str__(self) -> str:
        return str(self.paths[0])


@contextlib.contextmanager
def open_member(archive: LocalArchive, member: str) -> Iterator[BinaryIO]:
    """A stream of one member ("" for an archive that is a single file); a ``.gz`` member is decompressed as well.

    Raises:
        DataError: there is no such member, or it is refused.
        CorruptArchiveError: (also while reading) the archive is truncated or corrupt.
    """
    container, compression = ARCHIVE_KINDS[archive.kind]
    with contextlib.ExitStack() as stack:
        with _damage(archive):
            if container == "zip":
                stream = _zip_member(archive, member, stack)
            else:
                packed = stack.enter_context(_joined(archive.paths))
                stream = _unpack(packed, compression, archive.size, str(archive))
                if container == "tar":
                    stream = _tar_member(stream, archive, member, stack)
        yield cast(BinaryIO, _Reporting(stream, archive))


def list_members(archive: LocalArchive, pattern: str) -> list[str]:
    """The names of members that match a glob, in natural order (``Book2`` before ``Book10``).

    Raises:
        DataError: no member matches, or a name in the archive is refused.
        CorruptArchiveError: the archive is truncated or corrupt.
    """
    container, compression = ARCHIVE_KINDS[archive.kind]
    with contextlib.ExitStack() as stack, _damage(archive):
        if container == "zip":
            members = _open_zip(archive, stack).infolist()
            names = [_checked_name(info.filename, archive) for info in members if not info.is_dir()]
        else:
            packed = stack.enter_context(_joined(archive.paths))
            stream = _unpack(packed, compression, archive.size, str(archive))
            names = [_checked_name(info.name, archive) for _, info in _tar(stream, stack) if info.isreg()]
    matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matching:
        raise DataError(f"{archive}: no member matches '{pattern}'{_nearest(pattern, names)}")
    return sorted(matching, key=natural_order)


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorting key that takes runs of digits for numbers, and these before anything else."""
    runs = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not digits, int(digits or 0), text) for digits, text in runs]


def is_pattern(member: str) -> bool:
    """Whether a member's name is a glob."""
    return any(character in member for character in "*?[")


@contextlib.contextmanager
def _damage(archive: LocalArchive) -> Iterator[None]:
    """What the archive libraries raise on a damaged file, in our words."""
    try:
        yield
    except UserError:
        raise
    except lzma.LZMAError as error:
        if "Memory" in str(error):  # of which liblzma's Python knows no type of its own
            raise DataError(
                f"{archive}: unpacking takes more than {MAX_XZ_MEMORY >> 20} MiB of memory; refused "
                "(what xz -9 packs takes 65 MiB)"
            ) from None
        raise _damaged(archive, error) from None
    except (EOFError, OSError, ValueError, OverflowError, *_LIBRARY_ERRORS) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the file system's own trouble; a decompressor's has no number, a seek before the start has EINVAL
        raise _damaged(archive, error) from None


def _damaged(archive: LocalArchive, error: Exception) -> CorruptArchiveError:
    reason = " ".join(str(error).split()) or type(error).__name__
    damaged = CorruptArchiveError(f"{archive}: archive '{archive.name}' is truncated or damaged ({reason})")
    damaged.archive = archive
    return damaged


class _Joined(io.RawIOBase):
    """Files read one after another, as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._waiting = list(paths)
        self._file: io.FileIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._file is None:
                if not self._waiting:
                    return 0
                self._file = io.FileIO(self._waiting.pop(0))
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _joined(paths: Sequence[Path]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Joined(paths), _BLOCK))


class _Xz(io.RawIOBase):
    """The content of an xz file, all of its streams, unpacked in bounded memory (``lzma.LZMAFile`` takes no bound)."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._waiting = b""
        self._stream = lzma.LZMADecompressor(memlimit=MAX_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._stream.eof or self._starts_another():
            if not self._waiting and self._stream.needs_input:
                self._waiting = self._packed.read(_BLOCK)
                if not self._waiting:
                    raise EOFError("it ends before the end of its last stream")
            data, self._waiting = self._stream.decompress(self._waiting, len(buffer)), b""
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _starts_another(self) -> bool:
        """Go on to the stream after one that has ended, if there is one; zeros may lie between them."""
        self._waiting = self._stream.unused_data.lstrip(b"\0")
        while not self._waiting:
            block = self._packed.read(_BLOCK)
            if not block:
                return False
            self._waiting = block.lstrip(b"\0")
        self._stream = lzma.LZMADecompressor(memlimit=MAX_XZ_MEMORY)
        return True


class _Bounded(io.RawIOBase):
    """A decompressed stream that stops at an expansion no honest text has."""

    def __init__(self, stream: BinaryIO, packed_size: int, name: str) -> None:
        self._stream = stream
        self._limit = max(FREE_EXPANSION, MAX_EXPANSION * packed_size)
        self._count = 0
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._count += len(data)
        if self._count > self._limit:
            raise DataError(
                f"{self._name}: expands to more than {self._limit:,} bytes, {MAX_EXPANSION} times its size; refused"
            )
        return len(data)


def _unpack(packed: BinaryIO, compression: str, packed_size: int, name: str) -> BinaryIO:
    if not compression:
        return packed
    bounded = _Bounded(_DECOMPRESSORS[compression](packed), packed_size, name)
    return cast(BinaryIO, io.BufferedReader(bounded, _BLOCK))


def _unpack_member(stream: BinaryIO, member: str, size: int, archive: LocalArchive) -> BinaryIO:
    """A member that is compressed itself, unpacked; its bound counts from the archive too, which may be all packing."""
    suffix = PurePosixPath(member).suffix.removeprefix(".")
    packed_size = min(size, archive.size)
    return _unpack(stream, suffix if suffix in _DECOMPRESSORS else "", packed_size, f"{archive}: {member}")


def _checked_name(name: str, archive: LocalArchive) -> str:
    """A member's name without a leading ``./``. Absolute and climbing names tell of a hostile archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{archive}: archive '{archive.name}' has a member outside itself ({name!r}); refused")
    return str(PurePosixPath(name))


def _nearest(wanted: str, names: Sequence[str]) -> str:
    """The name that may have been meant, as the end of a message."""
    return f"; {did_you_mean(wanted, names)}" if get_close_matches(wanted, names, n=1) else ""


def _tar(stream: BinaryIO, stack: contextlib.ExitStack) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar as they go by, to be read at once; the archive stays open until the stack is left."""
    tar = tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK)  # noqa: SIM115
    stack.enter_context(tar)
    for info in tar:
        tar.members = []  # type: ignore[attr-defined]  # a stream is not read twice: keep no list of what went by
        yield tar, info


def _tar_member(stream: BinaryIO, archive: LocalArchive, member: str, stack: contextlib.ExitStack) -> BinaryIO:
    names = []
    for tar, info in _tar(stream, stack):
        names.append(_checked_name(info.name, archive))
        if names[-1] != member:
            continue
        if not info.isreg() or info.issparse():
            raise DataError(f"{archive}: member '{member}' is no plain file (a link, a device or sparse); refused")
        content = tar.extractfile(info)
        assert content is not None
        return _unpack_member(cast(BinaryIO, content), member, info.size, archive)
    raise DataError(f"{archive}: archive '{archive.name}' has no member '{member}'{_nearest(member, names)}")


def _open_zip(archive: LocalArchive, stack: contextlib.ExitStack) -> zipfile.ZipFile:
    return stack.enter_context(zipfile.ZipFile(archive.paths[0]))


def _zip_member(archive: LocalArchive, member: str, stack: contextlib.ExitStack) -> BinaryIO:
    zipped = _open_zip(archive, stack)
    names = []
    for info in zipped.infolist():
        names.append(_checked_name(info.filename, archive))
        if names[-1] != member:
            continue
        mode = info.external_attr >> 16
        if info.is_dir() or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise DataError(f"{archive}: member '{member}' is no plain file (a link, a device or a folder); refused")
        if info.flag_bits & 0x1:
            raise DataError(f"{archive}: member '{member}' is encrypted; accepted: plain members")
        if info.compress_type not in _ZIP_METHODS:
            raise DataError(
                f"{archive}: member '{member}' is packed by method {info.compress_type}; "
                "accepted: stored, deflate, bzip2"
            )
        try:
            content = cast(BinaryIO, stack.enter_context(zipped.open(info)))
        except NotImplementedError as error:
            raise DataError(f"{archive}: member '{member}': {error}") from None
        bounded = _Bounded(content, min(info.compress_size, archive.size), f"{archive}: {member}")
        return _unpack_member(cast(BinaryIO, io.BufferedReader(bounded, _BLOCK)), member, info.file_size, archive)
    raise DataError(f"{archive}: archive '{archive.name}' has no member '{member}'{_nearest(member, names)}")


class _Reporting:
    """The reading half of a stream, with damage found while reading reported in our words."""

    def __init__(self, stream: BinaryIO, archive: LocalArchive) -> None:
        self._stream = stream
        self._archive = archive

    def readline(self, limit: int = -1) -> bytes:
        with _damage(self._archive):
            return self._stream.readline(limit)

    def read(self, size: int = -1) -> bytes:
        with _damage(self._archive):
            return self._stream.read(size)
