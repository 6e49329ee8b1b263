"""Members of archives as streams. Nothing is extracted to disk.

A member is found by the name the task file gives it. Links, devices and sparse members are not read, and expansion and
memory are bounded.
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
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from nmt_rela.preparation.sources.task import ARCHIVE_FORMATS
from nmt_rela.utils.errors import DataError, UserError, similar_names
from nmt_rela.utils.text import compression_of

#: An archive may expand to this many bytes whatever its size, and beyond it to MAX_EXPANSION times its packed size.
FREE_EXPANSION = 64 << 20
MAX_EXPANSION = 100
#: Memory for decompressing one xz stream. The highest level of xz needs 65 MiB; a hostile header may ask for any size.
MAX_XZ_MEMORY = 512 << 20

_BLOCK = 1 << 20
_LIBRARY_ERRORS = (
    *(EOFError, OSError, ValueError, OverflowError, NotImplementedError, RecursionError),
    *(zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile, tarfile.TarError),
)
#: Compression methods of zip members. Others may ask for any amount of memory.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class CorruptArchiveError(DataError):
    """A truncated or corrupt archive; another copy may be intact."""

    archive: LocalArchive | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalArchive:
    """An archive on this machine: its format, and its files in the order in which they are concatenated."""

    name: str
    format: str
    paths: tuple[Path, ...]
    #: SHA-256 of its file, or of the SHA-256 of its files.
    digest: str

    @property
    def size(self) -> int:
        """Packed size in bytes."""
        return sum(path.stat().st_size for path in self.paths)

    def __str__(self) -> str:
        return str(self.paths[0])


@contextlib.contextmanager
def open_member(archive: LocalArchive, member: str) -> Iterator[BinaryIO]:
    """A stream of one member ("" for an archive that is a single file). A compressed member is decompressed as well.

    Raises:
        DataError: there is no such member, or it is refused.
        CorruptArchiveError: (also while reading) the archive is truncated or corrupt.
    """
    with contextlib.ExitStack() as stack:
        with _library_errors(archive):
            is_file = ARCHIVE_FORMATS[archive.format][0] == "file"
            stream = _container(archive, stack) if is_file else _find_member(archive, member, stack)
        yield _stream(_checked_blocks(stream, archive))


def list_members(archive: LocalArchive, pattern: str) -> list[str]:
    """The names of files in an archive that match a glob, in natural order (``Book2`` before ``Book10``).

    Raises:
        DataError: no file matches.
        CorruptArchiveError: the archive is truncated or corrupt.
    """
    with contextlib.ExitStack() as stack, _library_errors(archive):
        names = [member.name for member in _members(archive, stack) if member.is_file]
    matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matching:
        raise DataError(f"{archive}: no member matches '{pattern}'{_nearest(pattern, names)}")
    return sorted(matching, key=natural_order)


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorting key in which runs of digits are numbers and come before other characters."""
    runs = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not digits, int(digits or 0), text) for digits, text in runs]


def is_pattern(member: str) -> bool:
    """Whether a member's name is a glob."""
    return any(character in member for character in "*?[")


def _nearest(wanted: str, names: Sequence[str]) -> str:
    """The tail of a message that proposes a similar name, if there is one."""
    return "".join(f"; did you mean '{name}'?" for name in similar_names(wanted, names))


# Containers


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of a tar or zip archive. ``name`` has no leading ``./``; links and devices are no files."""

    name: str
    is_file: bool
    size: int
    open: Callable[[], BinaryIO]


def _container(archive: LocalArchive, stack: contextlib.ExitStack) -> BinaryIO:
    """The decompressed content of an archive's files."""
    packed = stack.enter_context(_stream(_concatenated(archive.paths)))
    return _decompressed(packed, ARCHIVE_FORMATS[archive.format][1], archive.size, str(archive))


def _members(archive: LocalArchive, stack: contextlib.ExitStack) -> Iterator[_Member]:
    """The members of an archive, in order; one of a tar must be read before the next is asked for."""
    if archive.format == "zip":
        zipped = stack.enter_context(zipfile.ZipFile(archive.paths[0]))
        for entry in zipped.infolist():
            is_file = not entry.is_dir() and stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
            read = partial(_open_zipped, zipped, entry, archive, stack)
            yield _Member(str(PurePosixPath(entry.filename)), is_file, entry.file_size, read)
        return
    tar = tarfile.open(fileobj=_container(archive, stack), mode="r|", bufsize=_BLOCK)  # noqa: SIM115
    stack.enter_context(tar)
    for info in tar:
        if info.size > FREE_EXPANSION + MAX_EXPANSION * archive.size:  # skipping it would take for ever
            raise CorruptArchiveError(
                f"{archive}: member '{info.name}' claims {info.size:,} bytes, "
                f"more than {MAX_EXPANSION} times its size; refused"
            )
        tar.members = []  # type: ignore[attr-defined]  # a stream cannot go back, so the list of members is not needed
        is_file = info.isreg() and not info.issparse()
        extract = cast(Callable[[], BinaryIO], partial(tar.extractfile, info))
        yield _Member(str(PurePosixPath(info.name)), is_file, info.size, extract)


def _find_member(archive: LocalArchive, name: str, stack: contextlib.ExitStack) -> BinaryIO:
    names = []
    for member in _members(archive, stack):
        names.append(member.name)
        if member.name != name:
            continue
        if not member.is_file:
            raise DataError(
                f"{archive}: member '{name}' is no plain file (a link, a folder, a device or sparse); refused"
            )
        # The bound of a compressed member counts from the archive's size: the member may be all compression.
        packed_size = min(member.size, archive.size)
        suffix = PurePosixPath(name).suffix.removeprefix(".")
        return _decompressed(member.open(), suffix, packed_size, f"{archive}: {name}")
    raise DataError(f"{archive}: archive '{archive.name}' has no member '{name}'{_nearest(name, names)}")


def _open_zipped(
    zipped: zipfile.ZipFile, entry: zipfile.ZipInfo, archive: LocalArchive, stack: contextlib.ExitStack
) -> BinaryIO:
    member = f"{archive}: member '{entry.filename}'"
    if entry.flag_bits & 0x1:
        raise DataError(f"{member} is encrypted; accepted: plain members")
    if entry.compress_type not in _ZIP_METHODS:
        raise DataError(f"{member} is packed by method {entry.compress_type}; accepted: stored, deflate, bzip2")
    content = cast(BinaryIO, stack.enter_context(zipped.open(entry)))
    return _stream(_bounded(content, min(entry.compress_size, archive.size), f"{archive}: {entry.filename}"))


# Streams


class _BlockStream(io.RawIOBase):
    """A binary stream of the blocks that an iterator gives."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


def _stream(blocks: Iterator[bytes]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_BlockStream(blocks), _BLOCK))


def _concatenated(paths: Sequence[Path]) -> Iterator[bytes]:
    """The content of files, one after another."""
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                yield block


def _decompressed_xz(packed: BinaryIO) -> Iterator[bytes]:
    """The content of all streams of an xz file, in bounded memory. ``lzma.LZMAFile`` takes no bound."""
    decompressor, data = lzma.LZMADecompressor(memlimit=MAX_XZ_MEMORY), b""
    while True:
        if decompressor.eof:  # zero bytes may lie between streams
            data = decompressor.unused_data.lstrip(b"\0")
            while not data:
                block = packed.read(_BLOCK)
                if not block:
                    return
                data = block.lstrip(b"\0")
            decompressor = lzma.LZMADecompressor(memlimit=MAX_XZ_MEMORY)
        elif decompressor.needs_input and not (data := packed.read(_BLOCK)):
            raise EOFError("it ends before the end of its last stream")
        if block := decompressor.decompress(data, _BLOCK):
            yield block
        data = b""


def _bounded(stream: BinaryIO, packed_size: int, name: str) -> Iterator[bytes]:
    """The content of a decompressed stream. Raises DataError beyond the expansion of any honest text."""
    limit, count = max(FREE_EXPANSION, MAX_EXPANSION * packed_size), 0
    while block := stream.read(_BLOCK):
        count += len(block)
        if count > limit:
            raise DataError(f"{name}: expands to more than {limit:,} bytes, {MAX_EXPANSION} times its size; refused")
        yield block


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "gz": lambda packed: cast(BinaryIO, gzip.GzipFile(fileobj=packed, mode="rb")),
    "xz": lambda packed: _stream(_decompressed_xz(packed)),
    "bz2": lambda packed: cast(BinaryIO, bz2.BZ2File(packed)),
}


def _decompressed(packed: BinaryIO, compression: str, packed_size: int, name: str) -> BinaryIO:
    """A stream without its compression: the one that its first bytes show, else ``compression`` if that names one."""
    head = cast(io.BufferedReader, packed).peek(16)
    compression = {"gzip": "gz", "bzip2": "bz2", "xz": "xz"}.get(compression_of(head) or "", compression)
    if compression not in _DECOMPRESSORS:
        return packed
    return _stream(_bounded(_DECOMPRESSORS[compression](packed), packed_size, name))


# Errors


def _checked_blocks(stream: BinaryIO, archive: LocalArchive) -> Iterator[bytes]:
    """The content of a stream. Errors of the archive libraries are raised as CorruptArchiveError."""
    while True:
        with _library_errors(archive):
            block = stream.read(_BLOCK)
        if not block:
            return
        yield block


@contextlib.contextmanager
def _library_errors(archive: LocalArchive) -> Iterator[None]:
    """Raise the errors of the archive libraries as CorruptArchiveError."""
    try:
        yield
    except UserError:
        raise
    except _LIBRARY_ERRORS as error:
        if isinstance(error, lzma.LZMAError) and "Memory" in str(error):  # liblzma has no exception of its own for it
            raise DataError(
                f"{archive}: decompression takes more than {MAX_XZ_MEMORY >> 20} MiB of memory; refused "
                "(xz -9 takes 65 MiB)"
            ) from None
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the file system; decompressors set no number, and a seek before the start sets EINVAL
        reason = " ".join(str(error).split()) or type(error).__name__
        corrupt = CorruptArchiveError(f"{archive}: archive '{archive.name}' is truncated or damaged ({reason})")
        corrupt.archive = archive
        raise corrupt from None
