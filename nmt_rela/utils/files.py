"""Files and directories that appear whole or not at all; checksums; locks between processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from nmt_rela.utils.errors import DataError

#: Suffix of a file or directory that is still being written.
PARTIAL = ".partial"
#: Suffix of the directory that `atomic_directory` sets aside while its replacement is renamed.
REPLACED = ".replaced"
CHECKSUMS = "SHA256SUMS"
#: Error numbers of a full disk or quota.
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_BLOCK = 1 << 22


@contextlib.contextmanager
def name_file_in_errors(path: Path | None) -> Iterator[None]:
    """Name the file in the error of a full disk, which has no name where an open file is written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK and error.filename is None and path is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file under a temporary name; synced and renamed to ``path`` when the block ends without an exception.

    The temporary name is always the same, so a kill leaves at most one. Two concurrent writers need a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with name_file_in_errors(path), open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill; synced and renamed to ``path`` when the block ends without an exception.

    Every file in it is synced first. An older directory at ``path`` is set aside as ``<path>.replaced`` during the
    rename and then deleted. A kill leaves a ``.partial`` directory, or the old one under ``.replaced``: see
    `restore_replaced`. An exception leaves ``path`` as it was and removes what was written.
    """
    partial, replaced = path.with_name(path.name + PARTIAL), path.with_name(path.name + REPLACED)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with name_file_in_errors(path):
            partial.mkdir(parents=True)
            yield partial
        for file in sorted(partial.rglob("*")):
            sync(file)
        sync(partial)
        if path.exists():  # otherwise ``replaced`` may be the only complete copy: it stays until the rename is done
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(path, replaced)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        restore_replaced(path)


def restore_replaced(path: Path) -> None:
    """Undo what a kill inside `atomic_directory` left: put the old directory back where no new one took its place."""
    replaced = path.with_name(path.name + REPLACED)
    if replaced.exists() and not path.exists():
        os.replace(replaced, path)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(path.with_name(path.name + PARTIAL), ignore_errors=True)


def expand_user(text: str) -> str:
    """A path with the home directory for ``~``. Raises DataError for an unknown user, ``$VARIABLE`` and a NUL."""
    path = os.path.expanduser(text)
    if any(name in os.environ for name in re.findall(r"\$\{?(\w+)", text)):  # else a directory "$HOME" would be made
        raise DataError(f"found {text!r}; accepted: a path; only the shell replaces environment variables")
    if path.startswith("~") or "\0" in path:
        raise DataError(f"found {text!r}; accepted: a path, with ~ or ~name for the home directory of a user")
    return path


def check_writable(path: Path, *, is_directory: bool) -> None:
    """Raise DataError if no file, or no directory, can be written at a path, which need not exist yet."""
    existing = path
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # a name that is too long
        if path.is_dir() and not is_directory:
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if path.exists() and not is_directory:
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, "permission denied")
            return
        if not is_directory:
            existing = path.parent
        while is_directory and not os.path.lexists(existing):
            existing = existing.absolute().parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        where = "" if existing == path else f"{existing}: "
        raise DataError(f"{path} cannot be written: {where}{(error.strerror or str(error)).lower()}") from error


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_missing(path: Path) -> str:
    """Why a path is no file that can be read more than once."""
    if path.is_dir():
        return "is a directory"
    return "is no regular file" if path.exists() else "no such file"


def read_regular(path: Path) -> bytes:
    """The content of a regular file. Raises OSError for anything else: a device or a pipe may have no end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or unreadable."""
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return checksum_of(path, "sha256")


def write_checksums(directory: Path) -> None:
    """Write the checksums of all files below a directory, as ``sha256sum -c SHA256SUMS`` reads them."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(directory)}\n" for path in files]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def first_damaged_file(directory: Path) -> Path | None:
    """The first file that is not as `write_checksums` found it; None if all are, or without checksums."""
    sums = directory / CHECKSUMS
    for line in read_regular(sums).decode("utf-8", "replace").splitlines() if sums.exists() else []:
        digest, _, name = line.partition("  ")
        if not (directory / name).is_file() or sha256_of(directory / name) != digest:
            return directory / name
    return None


def checksum_of(path: Path, algorithm: str) -> str:
    """The checksum of a file by an algorithm of `hashlib`, in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_lock(path: Path, *, wait: bool = True) -> FileLock:
    """Acquire a lock; its ``release``, or the end of the process, however it ends, releases it.

    Raises filelock.Timeout when another process holds
    the lock and ``wait`` is false; NotImplementedError or OSError on a file system without locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    lock.acquire(timeout=-1 if wait else 0)
    return lock
