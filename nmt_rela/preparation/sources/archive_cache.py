"""Archives of tasks on this machine: downloaded once, and verified each time before they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
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
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.progress import ProgressBar

LOG = logging.getLogger(__name__)

_TRANSFERS = 4

#: What is known of a file: ``sha256``, ``bytes``, and for local files ``modified`` (ns).
Record = dict[str, Any]


class ArchiveCache:
    """A directory of downloaded archives, ``<host>/<path>`` each, and their checksums.

    ``checksums.json`` in it records every verified file. Where the task file has no checksum, a later download of the
    same URL must agree with the record. The file also records the digest of each archive, wherever it came from.
    """

    def __init__(self, directory: Path, *, mirror: str = "", retry: RetryPolicy | None = None) -> None:
        self.directory = directory
        self.lock_file = directory / "checksums.json"
        self._retry = retry or RetryPolicy()
        self._mirror = Mirror(mirror, retry=self._retry) if mirror else None
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
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

    def fetch(self, archives: Iterable[Archive]) -> dict[str, tuple[LocalArchive, str]]:
        """The archives, verified, and their digests, by name. Four transfers run at the same time.

        Raises:
            DataError: none of an archive's locations provides it.
        """
        wanted = list({archive.name: archive for archive in archives}.values())
        if not wanted:
            return {}
        if self._mirror:
            self._mirror.check()
        with (
            exclusive(self.directory / ".lock", work=f"fetches archives into {self.directory}"),
            ProgressBar("fetching", unit="B") as progress,
            ThreadPoolExecutor(_TRANSFERS) as pool,
        ):
            futures = [pool.submit(self._fetch, archive, progress) for archive in wanted]
            try:
                return {archive.name: future.result() for archive, future in zip(wanted, futures, strict=True)}
            except BaseException:
                self._cancelled.set()
                for future in futures:
                    future.cancel()
                raise

    def discard(self, archive: LocalArchive) -> bool:
        """Delete the downloaded files of a corrupt archive and their records. False for files not downloaded here."""
        with self._changed_records() as records:
            ours = {url: self._target(url) for url in records if "://" in url}
            if not set(archive.paths) <= set(ours.values()):
                return False
            for url, path in ours.items():
                if path in archive.paths:
                    del records[url]
            for key in [key for key in records if key.startswith(f"{archive.name} ")]:
                del records[key]
        for path in archive.paths:
            path.unlink(missing_ok=True)
        return True

    # Fetching

    def _fetch(self, archive: Archive, progress: ProgressBar) -> tuple[LocalArchive, str]:
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
            return LocalArchive(name=archive.name, format=location.format, paths=paths), digest
        if str(archive.locations[0].path) == archive.name:  # local text that a source names itself
            hint = "globs are for members of archives" if is_pattern(archive.name) else "paths start from the task file"
            raise DataError(f"{archive.name}: no such file; {hint}")
        raise DataError(f"archive '{archive.name}' cannot be had: {'; '.join(failures)}")

    def _preferred(self, archive: Archive) -> list[Location]:
        """The locations, those whose files are on this machine first."""

        def is_absent(location: Location) -> bool:
            return not all(self._locate(file)[0].is_file() for file in location.files)

        return sorted(archive.locations, key=is_absent)

    def _locate(self, file: RemoteFile | Path) -> tuple[Path, str]:
        """Where a file is or will be, and the URL it is downloaded from ("" for a local file, or one of a mirror)."""
        if isinstance(file, Path):
            return file, ""
        place = self._mirror.locate(file.url) if self._mirror else file.url
        return (place, "") if isinstance(place, Path) else (self._target(place), place)

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
                raise DownloadError("no such file")
            return path, self._local_sha256(path)
        if self._mirror and (listed := self._mirror.sha256(file.url)):
            file = replace(file, sha256=listed, md5="", bytes=0)
        if not url:
            if not path.is_file():
                raise DownloadError(f"{path}: not in the mirror")
            return path, _verified_sha256(path, file)
        with self._lock:
            file_lock = self._file_locks.setdefault(path, threading.Lock())
        with file_lock:
            return path, self._downloaded(url, path, file, progress)

    def _downloaded(self, url: str, path: Path, part: RemoteFile, progress: ProgressBar) -> str:
        """Download a URL unless its file is there and intact. Returns its SHA-256."""
        record = None if part.sha256 or part.md5 else self._records().get(url)
        if record:
            part = replace(part, sha256=record["sha256"], bytes=record["bytes"])
        if path.is_file():
            try:
                return self._verify_and_record(url, path, part)
            except DownloadError as error:
                LOG.warning("%s: %s; it is downloaded again", path, error)
                path.unlink()
        for last in (False, True):
            LOG.info("fetching %s", url)
            resumed = download(
                url,
                path,
                has_checksum=bool(part.sha256 or part.md5),
                retry=self._retry,
                progress=progress,
                cancelled=self._cancelled,
            )
            try:
                return self._verify_and_record(url, path, part)
            except DownloadError as error:
                path.unlink()
                if last or not resumed:
                    hint = f" (recorded at its first download, in {self.lock_file})" if record else ""
                    raise DownloadError(f"{error}{hint}") from None
                LOG.warning("%s: %s; a part of it was of an earlier transfer: it is downloaded anew", url, error)
        raise AssertionError("the last transfer returns or raises")

    # Records

    def _known_sha256(self, file: RemoteFile | Path, records: Mapping[str, Record]) -> str | None:
        path, url = self._locate(file)
        if not url and path.is_file():
            return self._local_sha256(path)
        record = records.get(url or str(path))
        published = "" if isinstance(file, Path) or self._mirror else file.sha256.lower()
        return str(record["sha256"]) if record and published in ("", record["sha256"]) else None

    def _local_sha256(self, path: Path) -> str:
        """The checksum of a file not downloaded here, recorded for as long as its size and time stay the same."""
        status = path.stat()
        known = self._records().get(str(path))
        if known and (known["bytes"], known["modified"]) == (status.st_size, status.st_mtime_ns):
            return str(known["sha256"])
        sha256 = _checksums(path, "sha256")["sha256"]
        self._record(str(path), {"sha256": sha256, "bytes": status.st_size, "modified": status.st_mtime_ns})
        return sha256

    def _verify_and_record(self, url: str, path: Path, part: RemoteFile) -> str:
        sha256 = _verified_sha256(path, part)
        self._record(url, {"sha256": sha256, "bytes": path.stat().st_size})
        return sha256

    def _record(self, key: str, record: Record) -> None:
        if self._records().get(key) != record:
            with self._changed_records() as records:
                records[key] = record

    def _records(self) -> dict[str, Record]:
        try:
            return dict(json.loads(self.lock_file.read_bytes())["files"])
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{self.lock_file}: damaged; delete it, and archives are verified by the task file"
            ) from None

    @contextlib.contextmanager
    def _changed_records(self) -> Iterator[dict[str, Record]]:
        """The records, to be changed in the block; no other thread or process changes them meanwhile."""
        with self._lock, exclusive(self.directory / ".checksums.lock", work="records checksums"):
            records = self._records()
            yield records
            with atomic_write(self.lock_file) as stream:
                stream.write(json.dumps({"files": records}, indent=1, sort_keys=True).encode("utf-8") + b"\n")


def _key(archive: Archive) -> str:
    """The key of an archive's digest: its name and a fingerprint of its locations."""
    return f"{archive.name} {fingerprint({'locations': [repr(location) for location in archive.locations]})}"


def _joint_digest(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _verified_sha256(path: Path, part: RemoteFile) -> str:
    """The SHA-256 of a file. Raises DownloadError where the file differs from what is known of it."""
    size = path.stat().st_size
    if part.bytes and size != part.bytes:
        raise DownloadError(f"wrong size: {size:,} bytes, expected {part.bytes:,}")
    found = _checksums(path, "sha256", *(["md5"] if part.md5 else []))
    for name, expected in (("sha256", part.sha256), ("md5", part.md5)):
        if expected and found[name] != expected.lower():
            raise DownloadError(f"wrong {name}: {found[name]}, expected {expected}")
    return found["sha256"]


def _checksums(path: Path, *algorithms: str) -> dict[str, str]:
    digests = {name: hashlib.new(name) for name in algorithms}
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in digests.items()}
