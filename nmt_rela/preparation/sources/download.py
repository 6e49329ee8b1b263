"""Download of one file over HTTP: resumed after a broken connection or a kill, and retried with backoff.

Proxies are those of the environment (``https_proxy``, ``no_proxy``). Certificates are always verified. A redirect from
https to http is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3

from nmt_rela.utils.files import atomic_write, sync
from nmt_rela.utils.progress import ProgressBar, format_duration

LOG = logging.getLogger(__name__)

_BLOCK = 1 << 16
#: Statuses after which the same request may succeed: timeout, too many requests, and faults of the server.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(Exception):
    """A file that this address does not provide. Another address may."""


class AbsentError(DownloadError):
    """A file that the server does not have."""


class _TransientError(Exception):
    """A failure after which the same request may succeed; ``retry_after``: seconds that the server asked to wait."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often and how long failures are retried."""

    #: Consecutive requests without a new byte after which an address is given up.
    attempts: int = 5
    #: Seconds without a byte after which a connection counts as dead.
    timeout: float = 60.0
    #: Seconds before the second request; doubled for each further one.
    backoff: float = 1.0
    #: Upper bound of the wait in seconds, whatever the server asks for.
    max_backoff: float = 60.0


def download(
    url: str, target: Path, *, has_checksum: bool, retry: RetryPolicy, progress: ProgressBar, cancelled: threading.Event
) -> bool:
    """Download a URL to a file, which appears under its name only when it is complete.

    Until then the bytes that have arrived lie in ``<target>.part``. Later calls continue there, also after a kill.

    Args:
        has_checksum: the caller verifies the result, so a ``.part`` file of unknown version may be continued.
        cancelled: when it is set, the transfer ends with a DownloadError as soon as possible.

    Returns:
        Whether the bytes of an earlier request were continued.

    Raises:
        AbsentError: the server does not have the file.
        DownloadError: the address refuses the file or keeps failing.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, target.with_name(target.name + ".part"), has_checksum, retry.timeout, progress, cancelled)
    failures, furthest = 0, transfer.size()
    while True:
        try:
            resumed = transfer.request()
            break
        except _TransientError as error:
            if cancelled.is_set():
                raise DownloadError("interrupted") from None
            failures = 0 if transfer.size() > furthest else failures + 1
            furthest = max(furthest, transfer.size())
            if failures >= retry.attempts:
                raise DownloadError(f"{error} ({failures} times in a row)") from None
            delay = min(max(error.retry_after, retry.backoff * 2 ** max(failures - 1, 0)), retry.max_backoff)
            LOG.warning("%s: %s; trying again in %s", url, error, format_duration(delay))
            cancelled.wait(delay)
    sync(transfer.partial)
    os.replace(transfer.partial, target)
    transfer.version_file.unlink(missing_ok=True)
    return resumed


@dataclass
class _Transfer:
    """Requests for one file, each of which continues the ``.part`` file where possible."""

    url: str
    partial: Path
    has_checksum: bool
    timeout: float
    progress: ProgressBar
    cancelled: threading.Event
    #: Bytes of this file in the progress, done and in total.
    _done: int = 0
    _total: int = 0

    @property
    def version_file(self) -> Path:
        """Holds the version of the ``.part`` file: its ETag or Last-Modified, for If-Range; empty if unknown."""
        return self.partial.with_name(self.partial.name + ".version")

    def size(self) -> int:
        """Bytes that have arrived."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def request(self) -> bool:
        """One request. Returns whether it continued an earlier one."""
        have, headers = self.size(), {}
        version = self.version_file.read_text("utf-8") if self.version_file.exists() else ""
        if have and (version or self.has_checksum):
            headers = {"Range": f"bytes={have}-", **({"If-Range": version} if version else {})}
        with _get(self.url, headers, self.timeout) as response:
            status, content_range = response.status_code, response.headers.get("Content-Range", "")
            if status == 416 and content_range == f"bytes */{have}":
                self._show(have, have)  # nothing follows: the file is complete
                return True
            if status == 416 or (status == 206 and not content_range.startswith(f"bytes {have}-")):
                self.partial.unlink(missing_ok=True)
                raise _TransientError("the server has another version, or sent another range than requested")
            _raise_for_status(response)
            resumed = status == 206
            if not resumed:  # before the version is recorded: a kill must not leave bytes of another one
                self.partial.unlink(missing_ok=True)
            tag = response.headers.get("ETag", "")  # a weak one, W/"…", does not identify bytes
            with atomic_write(self.version_file) as stream:
                stream.write((tag if tag.startswith('"') else response.headers.get("Last-Modified", "")).encode())
            start, length = have if resumed else 0, response.headers.get("Content-Length", "")
            self._show(start, start + int(length) if length.isdecimal() else 0)
            with open(self.partial, "ab") as stream:
                while True:
                    with _network_errors(f"the connection was cut at {self._done:,} of {self._total:,} bytes"):
                        block: bytes = response.raw.read1(_BLOCK)  # as soon as any bytes arrive
                    if not block:
                        return resumed
                    stream.write(block)
                    stream.flush()
                    self._done += len(block)
                    self.progress.advance(len(block))
                    if self.cancelled.is_set():
                        raise _TransientError("interrupted")

    def _show(self, done: int, total: int) -> None:
        """Set this file's part of the progress to where the request starts and how far it goes."""
        self.progress.advance(done - self._done)
        self.progress.add_total(total - self._total)
        self._done, self._total = done, total


class HttpsSession(requests.Session):
    """A session that refuses redirects from https to another scheme."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        location = super().get_redirect_target(resp)
        if location and resp.url.startswith("https:") and not urljoin(resp.url, location).startswith("https:"):
            raise DownloadError(f"redirects to {location}, out of https; refused")
        return location


@contextlib.contextmanager
def _get(url: str, headers: Mapping[str, str], timeout: float) -> Iterator[requests.Response]:
    """The response to a GET request, with its body unread."""
    # Without "identity" the server could compress, and sizes and ranges would be those of the compressed bytes.
    headers = {"User-Agent": "nmt_rela", "Accept-Encoding": "identity", **headers}
    with HttpsSession() as session:
        with _network_errors():
            response = session.get(url, headers=headers, timeout=timeout, stream=True)
        with response:
            yield response


def _raise_for_status(response: requests.Response) -> None:
    status = response.status_code
    if status in _TRANSIENT:
        after = response.headers.get("Retry-After", "")
        raise _TransientError(f"HTTP {status}", float(after) if after.isdecimal() else 0.0)
    if status in (404, 410):
        raise AbsentError(f"HTTP {status}")
    if status not in (200, 206):
        raise DownloadError(f"HTTP {status}")


@contextlib.contextmanager
def _network_errors(cut: str = "the connection was cut") -> Iterator[None]:
    """Errors of the network as _TransientError, or as DownloadError where a retry cannot help."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        cause = _innermost(error)
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            raise DownloadError(f"its certificate cannot be verified ({cause})") from None
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
            raise DownloadError("the host is not known") from None
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
            raise _TransientError("no answer in time") from None
        if isinstance(error, (urllib3.exceptions.IncompleteRead, urllib3.exceptions.ProtocolError)):
            raise _TransientError(cut) from None
        lost = isinstance(error, requests.ConnectionError)
        if isinstance(error, (requests.RequestException, ValueError)) and not lost:
            raise DownloadError(str(error)) from None  # such as a malformed address, or too many redirects
        raise _TransientError(re.sub(r"^\[Errno -?\d+\] ", "", str(cause)) or type(cause).__name__) from None


def _innermost(error: BaseException) -> BaseException:
    """The first cause of an error, which requests and urllib3 wrap several times."""
    while isinstance(inner := getattr(error, "reason", None) or error.__cause__ or error.__context__, BaseException):
        error = inner
    return error
