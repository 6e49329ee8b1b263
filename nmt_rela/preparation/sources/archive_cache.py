"""Archives of tasks on this machine: downloaded once, and verified each time before they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nmt_rela.preparation.sources.archives import LocalArchive, is_pattern
from nmt_rela.preparation.sources.download import DownloadError, RetryPolicy, download
from nmt_rela.preparation.sources.mirror import Mirror, path_of_url
from nmt_rela.preparation.sources.task import Archive, Location, RemoteFile
from nmt_rela.preparation.stage_cache import exclusive, fingerprint
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write, checksum_of, describe_missing, sha256_of
from nmt_rela.utils.progress import ProgressBar

LOG = logging.getLogger(__name__)

_TRANSFERS = 4
#: Bytes above which a file's size and modification time stand for its content.
_LARGE = 1 << 26

#: What is known of a file: ``sha256``, ``bytes``, and for local files ``modified`` (ns).
Record = dict[str, Any]


class ArchiveCache:
    """A directory of downloaded archives, ``<host>/<path>`` each, and their checksums.

    ``checksums.json`` in it records every verified file. Where the task file has no checksum, a later download of the
    same URL must agree with the record. The file also records the digest of each archive, wherever it came from.
    """

    def __init__(self, directory: Path, *, mirror: str = "", retry: RetryPolicy | None = None) -> None:
        self.directory = directory
        self.checksums_file = directory / "checksums.json"
        self._retry = retry or RetryPolicy()
        self._mirror = Mirror(mirror) if mirror else None
        self._cancelled = threading.Event()
        self._records_lock = threading.Lock()
        self._file_locks: dict[Path, threading.Lock] = {}  # archives may have files in common

    def known_digest(self, archive: Archive) -> str | None:
        """The digest of an archive that was fetched before, even if it was deleted since; None when it never was.

        A record of the place where it is fetched from now comes first; then that of any place, so that data remains
        valid when its mirror or the network is gone.
        """
        records = self._records()
        for location in self._preferred(archive):
            found = [self._known_sha256(file, records) for file in location.files]
            if all(found):
                return _joint_digest([sha256 for sha256 in found if sha256])
        record = records.get(_key(archive))
        return str(record["sha256"]) if record else None

    def fetch(self, archives: Sequence[Archive]) -> list[LocalArchive]:
        """The archives, verified. Four transfers run at the same time.

        Raises:
            DataError: none of an archive's locations provides it.
        """
        if not archives:
            return []
        for archive in archives:  # a download would take long to find out
            if all(location.path and not location.path.is_file() for location in archive.locations):
                raise _missing(
                    archive,
                    [
                        f"{location}: {describe_missing(location.path)}"
                        for location in archive.locations
                        if location.path
                    ],
                )
        if self._mirror:
            self._mirror.read_checksums(self._retry)
        with (
            exclusive(self.directory / ".lock", work=f"fetches archives into {self.directory}"),
            ProgressBar("fetching", unit="B") as progress,
            ThreadPoolExecutor(_TRANSFERS) as pool,
        ):
            futures = [pool.submit(self._fetch, archive, progress) for archive in archives]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._cancelled.set()
                for future in futures:
                    future.cancel()
                raise

    def discard(self, archive: LocalArchive) -> bool:
        """Delete the downloaded files of a corrupt archive and their records. False for files not downloaded here."""
        with self._changed_records() as records:
            urls = [url for url in records if "://" in url and self._target(url) in archive.paths]
            if {self._target(url) for url in urls} != set(archive.paths):
                return False
            for key in [*urls, *(key for key in records if key.startswith(f"{archive.name} "))]:
                del records[key]
        for path in archive.paths:
            path.unlink(missing_ok=True)
        return True

    # Fetching

    def _fetch(self, archive: Archive, progress: ProgressBar) -> LocalArchive:
        failures = []
        for location in self._preferred(archive):
            try:
                files = [self._obtain(file, progress) for file in location.files]
            except DownloadError as error:
                if self._cancelled.is_set():
                    raise DataError(f"archive '{archive.name}': interrupted") from None
                failures.append(f"{location}: {error}")
                LOG.warning("archive '%s': %s", archive.name, failures[-1])
                continue
            digest = _joint_digest([sha256 for _, sha256 in files])
            self._record(_key(archive), {"sha256": digest})
            paths = tuple(path for path, _ in files)
            return LocalArchive(name=archive.name, format=location.format, paths=paths, digest=digest)
        raise _missing(archive, failures)

    def _preferred(self, archive: Archive) -> list[Location]:
        """The locations, those whose files are on this machine first."""
        return sorted(
            archive.locations, key=lambda location: not all(self._locate(file)[0].is_file() for file in location.files)
        )

    def _locate(self, file: RemoteFile | Path) -> tuple[Path, str]:
        """Where a file is or will be, and the URL it is downloaded from ("" for a local file, or one of a mirror)."""
        if isinstance(file, Path):
            return file, ""
        location = self._mirror.locate(file.url) if self._mirror else file.url
        return (location, "") if isinstance(location, Path) else (self._target(location), location)

    def _target(self, url: str) -> Path:
        """The file that a URL is downloaded to. URLs that differ in their queries have different files."""
        query = urlsplit(url).query
        path = self.directory / path_of_url(url)
        return path.with_name(path.name + (f"-{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else ""))

    def _obtain(self, file: RemoteFile | Path, progress: ProgressBar) -> tuple[Path, str]:
        """One file, verified, and its SHA-256."""
        path, url = self._locate(file)
        if isinstance(file, Path):
            if not path.is_file():
                raise DownloadError(describe_missing(path))
            return path, self._local_sha256(path)
        if self._mirror and (listed := self._mirror.sha256(file.url)):
            file = replace(file, sha256=listed, md5="", bytes=0)
        if not url:
            if not path.is_file():
                raise DownloadError(f"{path}: not in the mirror")
            return path, _verified_sha256(path, file)
        with self._file_locks.setdefault(path, threading.Lock()):
            return path, self._downloaded(url, path, file, progress)

    def _downloaded(self, url: str, path: Path, file: RemoteFile, progress: ProgressBar) -> str:
        """Download a URL unless its file is there and intact. Returns its SHA-256."""
        record = None if file.sha256 or file.md5 else self._records().get(url)
        if record:
            file = replace(file, sha256=record["sha256"], bytes=record.get("bytes", 0))
        downloads, resumed = 0, False
        while True:
            if not path.is_file():
                LOG.info("fetching %s", url)
                resumed = download(
                    url,
                    path,
                    has_checksum=bool(file.sha256 or file.md5),
                    retry=self._retry,
                    progress=progress,
                    cancelled=self._cancelled,
                )
                downloads += 1
            try:
                sha256 = _verified_sha256(path, file)
            except DownloadError as error:
                path.unlink()
                # A file that was there may be damaged, and a part that was continued may be of another version.
                if downloads == 2 or (downloads == 1 and not resumed):
                    hint = f" (recorded at its first download, in {self.checksums_file})" if record else ""
                    raise DownloadError(f"{error}{hint}") from None
                LOG.warning("%s: %s; it is downloaded again", path, error)
            else:
                self._record(url, {"sha256": sha256, "bytes": path.stat().st_size})
                return sha256

    # Records

    def _known_sha256(self, file: RemoteFile | Path, records: Mapping[str, Record]) -> str | None:
        path, url = self._locate(file)
        if not url and path.is_file():
            return self._local_sha256(path)
        record = records.get(url or str(path))
        published = "" if isinstance(file, Path) or self._mirror else file.sha256.lower()
        return str(record["sha256"]) if record and published in ("", record["sha256"]) else None

    def _local_sha256(self, path: Path) -> str:
        """The checksum of a file not downloaded here. That of a large one is computed when its size or time changes."""
        status = path.stat()
        known = self._records().get(str(path)) if status.st_size > _LARGE else None
        if known and (known.get("bytes"), known.get("modified")) == (status.st_size, status.st_mtime_ns):
            return str(known["sha256"])
        sha256 = sha256_of(path)
        self._record(str(path), {"sha256": sha256, "bytes": status.st_size, "modified": status.st_mtime_ns})
        return sha256

    def _record(self, key: str, record: Record) -> None:
        if self._records().get(key) != record:
            with self._changed_records() as records:
                records[key] = record

    def _records(self) -> dict[str, Record]:
        try:
            records = dict(json.loads(self.checksums_file.read_bytes())["files"])
            return {key: record | {"sha256": record["sha256"]} for key, record in records.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            hint = "delete it, and archives are verified by the task file"
            raise DataError(f"{self.checksums_file}: damaged; {hint}") from None

    @contextlib.contextmanager
    def _changed_records(self) -> Iterator[dict[str, Record]]:
        """The records, to be changed in the block; no other thread or process changes them meanwhile."""
        with self._records_lock, exclusive(self.directory / ".checksums.lock", work="records checksums"):
            records = self._records()
            yield records
            with atomic_write(self.checksums_file) as stream:
                stream.write(json.dumps({"files": records}, indent=1, sort_keys=True).encode("utf-8") + b"\n")


def _missing(archive: Archive, failures: Sequence[str]) -> DataError:
    if str(archive.locations[0].path) == archive.name:  # local text that a source names itself
        found = describe_missing(Path(archive.name))
        hint = "paths start from the task file" if found == "no such file" else "accepted: a file"
        if re.search(r"(https?|ftp):/", archive.name):
            hint = "a URL stands under archives (docs/tasks.md), and the source names it by archive"
        return DataError(
            f"{archive.name}: {found}; {'globs are for members of archives' if is_pattern(archive.name) else hint}"
        )
    accepted = "one location of the task file, or of NMT_RELA_MIRROR, that provides it"
    return DataError(f"archive '{archive.name}' cannot be had: {'; '.join(failures)}; accepted: {accepted}")


def _key(archive: Archive) -> str:
    """The key of an archive's digest: its name and a fingerprint of its locations."""
    return f"{archive.name} {fingerprint({'locations': [repr(location) for location in archive.locations]})}"


def _joint_digest(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _verified_sha256(path: Path, file: RemoteFile) -> str:
    """The SHA-256 of a file. Raises DownloadError where the file differs from what is known of it."""
    size, sha256 = path.stat().st_size, sha256_of(path)
    if file.bytes and size != file.bytes:
        raise DownloadError(f"wrong size: {size:,} bytes, expected {file.bytes:,}")
    if file.sha256 and sha256 != file.sha256.lower():
        raise DownloadError(f"wrong sha256: {sha256}, expected {file.sha256}")
    if file.md5 and (md5 := checksum_of(path, "md5")) != file.md5.lower():
        raise DownloadError(f"wrong md5: {md5}, expected {file.md5}")
    return sha256
