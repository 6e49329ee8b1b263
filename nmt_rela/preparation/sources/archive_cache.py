"""The archives of tasks on this machine: fetched once, verified each time before they are read.

``NMT_RELA_MIRROR`` names a directory or a URL that serves ``<mirror>/<host>/<path>`` for every URL. Its ``SHA256SUMS``,
where it has one, says what is right there; the public checksums do not apply to what a mirror holds instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nmt_rela.preparation.sources.archives import LocalArchive, is_pattern
from nmt_rela.preparation.sources.download import DownloadError, RetryPolicy, download, read_small
from nmt_rela.preparation.sources.task import Archive, Location, RemoteFile
from nmt_rela.preparation.stage_cache import exclusive
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.progress import Progress
from nmt_rela.utils.text import atomic_write

LOG = logging.getLogger(__name__)

MIRROR_VARIABLE = "NMT_RELA_MIRROR"
_TRANSFERS = 4


class Mirror:
    """A place that holds copies of URLs."""

    def __init__(self, place: str, *, patience: RetryPolicy) -> None:
        self._patience = patience
        self._sums: dict[str, str] | None = None
        self._lock = threading.Lock()
        self.url = place.rstrip("/") if re.match(r"https?://", place) else ""
        self.directory = None if self.url else Path(place.removeprefix("file://")).expanduser().absolute()
        if self.directory and not self.directory.is_dir():
            raise DataError(f"{MIRROR_VARIABLE}: {place}: no such directory; accepted: a directory, or an http(s) URL")

    def place(self, url: str) -> str | Path:
        """Where the mirror has a URL."""
        parts = urlsplit(url)
        if self.directory:
            return self.directory / _relative_path(url)
        return f"{self.url}/{_host(url)}{parts.path}"

    def sha256(self, url: str) -> str:
        """The checksum by the mirror's own list, or "" where it does not list the URL."""
        with self._lock:
            if self._sums is None:
                self._sums = self._read_sums()
                if self._sums:
                    LOG.info("checksums are those of the mirror: %s/SHA256SUMS", self.url or self.directory)
        return self._sums.get(f"{_host(url)}{unquote(urlsplit(url).path)}", "")

    def _read_sums(self) -> dict[str, str]:
        if self.directory:
            path = self.directory / "SHA256SUMS"
            data = path.read_bytes() if path.is_file() else b""
        else:
            data = read_small(f"{self.url}/SHA256SUMS", limit=16 << 20, patience=self._patience) or b""
        lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](?:\./)?(.+?)\r?$", data.decode("utf-8", "replace"), re.MULTILINE)
        return {name: digest.lower() for digest, name in lines}


class ArchiveCache:
    """Fetches archives into a directory, ``<host>/<path>`` each, and knows their checksums.

    ``checksums.json`` in it records every verified download. Where the task file has no checksum, a later download of
    the same URL has to agree with it.
    """

    def __init__(self, directory: Path, *, mirror: str = "", patience: RetryPolicy | None = None) -> None:
        self.directory = directory
        self._patience = patience or RetryPolicy()
        self._mirror = Mirror(mirror, patience=self._patience) if mirror else None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._at_work: dict[Path, threading.Lock] = {}  # by target: archives may share a file

    @property
    def lock_file(self) -> Path:
        return self.directory / "checksums.json"

    def recorded(self, archive: Archive) -> str | None:
        """The digest of an archive that was fetched before, even if it was deleted since; None when it never was."""
        records = self._records()
        for location in self._preferred(archive):
            if location.path:
                found = [self._recorded_file(location.path, records)]
            else:
                found = [self._recorded_part(part, records) for part in location.parts]
            if all(found):
                return _joint_digest([sha256 for sha256 in found if sha256])
        return None

    def fetch(self, archives: Iterable[Archive]) -> dict[str, tuple[LocalArchive, str]]:
        """Have archives on this machine, several transfers at once: files and digest by name.

        Raises:
            DataError: an archive can be had from none of its locations.
        """
        wanted = list({archive.name: archive for archive in archives}.values())
        if not wanted:
            return {}
        with (
            exclusive(self.directory / ".lock", work=f"fetches archives into {self.directory}"),
            Progress("fetching", unit="B") as progress,
            ThreadPoolExecutor(_TRANSFERS) as pool,
        ):
            futures = [pool.submit(self._fetch, archive, progress) for archive in wanted]
            try:
                return {archive.name: future.result() for archive, future in zip(wanted, futures, strict=True)}
            except BaseException:
                self._stop.set()
                for future in futures:
                    future.cancel()
                raise

    def forget(self, files: LocalArchive) -> bool:
        """Delete downloaded files that turned out to be damaged, with their record; False for others' files."""
        with self._changed_records() as records:
            ours = {url: self._target(url) for url in records if "://" in url}
            if not set(files.paths) <= set(ours.values()):
                return False
            for url, path in ours.items():
                if path in files.paths:
                    del records[url]
        for path in files.paths:
            path.unlink(missing_ok=True)
        return True

    def _fetch(self, archive: Archive, progress: Progress) -> tuple[LocalArchive, str]:
        failures = []
        for location in self._preferred(archive):
            try:
                files = (
                    [self._local_file(location.path)]
                    if location.path
                    else [self._file(part, progress) for part in location.parts]
                )
            except DownloadError as error:
                if self._stop.is_set():
                    raise DataError(f"archive '{archive.name}': interrupted") from None
                failures.append(f"{location}: {error}")
                LOG.warning("archive '%s': %s", archive.name, failures[-1])
                continue
            paths = tuple(path for path, _ in files)
            digest = _joint_digest([sha256 for _, sha256 in files])
            return LocalArchive(name=archive.name, kind=location.kind, paths=paths), digest
        if str(archive.locations[0].path) == archive.name:  # text of the user, named by a source itself
            hint = "globs are for members of archives" if is_pattern(archive.name) else "paths start from the task file"
            raise DataError(f"{archive.name}: no such file; {hint}")
        raise DataError(f"archive '{archive.name}' cannot be had: {'; '.join(failures)}")

    def _preferred(self, archive: Archive) -> list[Location]:
        """The locations, those that are here already first."""

        def absent(location: Location) -> bool:
            paths = [location.path] if location.path else [self._place(p.url)[0] for p in location.parts]
            return not all(path.is_file() for path in paths)

        return sorted(archive.locations, key=absent)

    def _place(self, url: str) -> tuple[Path, str]:
        """The file of a URL, and the URL it is fetched from ("" where it lies in a mirror directory)."""
        place = self._mirror.place(url) if self._mirror else url
        return (place, "") if isinstance(place, Path) else (self._target(place), place)

    def _target(self, url: str) -> Path:
        """The file that a URL is fetched to; two queries are not fetched to one file."""
        query = urlsplit(url).query
        path = self.directory / _relative_path(url)
        return path.with_name(path.name + (f"-{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else ""))

    def _recorded_part(self, part: RemoteFile, records: Mapping[str, Any]) -> str | None:
        path, url = self._place(part.url)
        if not url:
            return self._recorded_file(path, records)
        record = records.get(url)
        if record is None or (part.sha256 and not self._mirror and record["sha256"] != part.sha256):
            return None
        return str(record["sha256"])

    def _recorded_file(self, path: Path, records: Mapping[str, Any]) -> str | None:
        if path.is_file():
            return self._local_sha256(path)
        return str(records[str(path)]["sha256"]) if str(path) in records else None

    def _file(self, part: RemoteFile, progress: Progress) -> tuple[Path, str]:
        """One file, verified, and its SHA-256."""
        path, url = self._place(part.url)
        part = self._authoritative(part)
        if not url:
            if not path.is_file():
                raise DownloadError(f"{path}: not in the mirror")
            return path, _verified(path, part)
        with self._lock:
            at_work = self._at_work.setdefault(path, threading.Lock())
        with at_work:
            return path, self._fetched(url, path, part, progress)

    def _fetched(self, url: str, path: Path, part: RemoteFile, progress: Progress) -> str:
        """Have one file of a URL; its SHA-256."""
        record = self._records().get(url)
        by_record = not part.sha256 and not part.md5 and record is not None
        if by_record and record is not None:
            part = replace(part, sha256=record["sha256"], size=record["bytes"])
        if path.is_file():
            try:
                return self._record(url, path, _verified(path, part))
            except DownloadError as error:
                LOG.warning("%s: %s; it is fetched again", path, error)
                path.unlink()
        for last in (False, True):
            trusted = bool(part.sha256 or part.md5)
            LOG.info("fetching %s", url)
            resumed = download(url, path, trusted=trusted, patience=self._patience, progress=progress, stop=self._stop)
            try:
                return self._record(url, path, _verified(path, part))
            except DownloadError as error:
                path.unlink()
                if last or not resumed:
                    hint = f" (recorded at its first download, in {self.lock_file})" if by_record else ""
                    raise DownloadError(f"{error}{hint}") from None
                LOG.warning("%s: %s; its beginning was of an earlier transfer: all is fetched again", url, error)
        raise AssertionError("the last transfer is recorded or refused")

    def _authoritative(self, part: RemoteFile) -> RemoteFile:
        """A part with the checksum that counts: the mirror's own, where it lists the file."""
        own = self._mirror.sha256(part.url) if self._mirror else ""
        return replace(part, sha256=own, md5="", size=0) if own else part

    def _local_file(self, path: Path) -> tuple[Path, str]:
        if not path.is_file():
            raise DownloadError("no such file")
        return path, self._local_sha256(path)

    def _local_sha256(self, path: Path) -> str:
        """The checksum of a file that is not ours, remembered as long as its size and time stay the same."""
        status = path.stat()
        known = self._records().get(str(path))
        if known and (known["bytes"], known["modified"]) == (status.st_size, status.st_mtime_ns):
            return str(known["sha256"])
        sha256 = _hash(path, "sha256")["sha256"]
        self._add_record(str(path), {"sha256": sha256, "bytes": status.st_size, "modified": status.st_mtime_ns})
        return sha256

    def _record(self, url: str, path: Path, sha256: str) -> str:
        self._add_record(url, {"sha256": sha256, "bytes": path.stat().st_size})
        return sha256

    def _add_record(self, key: str, record: Mapping[str, Any]) -> None:
        if self._records().get(key) != record:
            with self._changed_records() as records:
                records[key] = record

    def _records(self) -> dict[str, Any]:
        try:
            records = json.loads(self.lock_file.read_bytes())["files"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{self.lock_file}: damaged; delete it, and archives are verified by the task file"
            ) from None
        return dict(records)

    @contextlib.contextmanager
    def _changed_records(self) -> Iterator[dict[str, Any]]:
        """The records, to be changed; no other thread or process changes them meanwhile."""
        with self._lock, exclusive(self.directory / ".checksums.lock", work="records checksums"):
            records = self._records()
            yield records
            with atomic_write(self.lock_file) as stream:
                stream.write(json.dumps({"files": records}, indent=1, sort_keys=True).encode("utf-8") + b"\n")


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _relative_path(url: str) -> Path:
    """``<host>/<path>`` of a URL, with nothing in it that leads elsewhere."""
    names = [_host(url), *unquote(urlsplit(url).path).split("/")]
    return Path(*(name for name in names if name not in ("", ".", "..")))


def _joint_digest(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _verified(path: Path, part: RemoteFile) -> str:
    """The SHA-256 of a file that agrees with all that is known of it. Raises DownloadError when it does not."""
    size = path.stat().st_size
    if part.size and size != part.size:
        raise DownloadError(f"wrong size: {size:,} bytes, expected {part.size:,}")
    found = _hash(path, "sha256", *(("md5",) if part.md5 else ()))
    for name, expected in (("sha256", part.sha256), ("md5", part.md5)):
        if expected and found[name] != expected:
            raise DownloadError(f"wrong {name}: {found[name]}, expected {expected}")
    return found["sha256"]


def _hash(path: Path, *names: str) -> dict[str, str]:
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in digests.items()}
