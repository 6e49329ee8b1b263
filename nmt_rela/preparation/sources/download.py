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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

import requests
import urllib3

from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.progress import ProgressBar, format_duration

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_BLOCK = 1 << 16
#: Statuses after which the same request may succeed: timeout, too many requests, and faults of the server.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABSENT = frozenset({404, 410})


class DownloadError(Exception):
    """A file that this address does not provide. Another address may."""


class TransientError(Exception):
    """A failure after which the same request may succeed.

    Args:
        retry_after: seconds that the server asked to wait.
    """

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

    def run(
        self,
        request: Callable[[], T],
        url: str,
        *,
        cancelled: threading.Event | None = None,
        received: Callable[[], int] = lambda: 0,
    ) -> T:
        """The result of ``request``, which is repeated while it raises TransientError.

        Args:
            cancelled: ends the waiting, and then the retries.
            received: bytes that have arrived. A request that brought new ones resets the count of failures.

        Raises:
            DownloadError: too many consecutive failures, or cancelled.
        """
        cancelled = cancelled or threading.Event()
        failures, furthest = 0, received()
        while True:
            try:
                return request()
            except TransientError as error:
                if cancelled.is_set():
                    raise DownloadError("interrupted") from None
                failures = 0 if received() > furthest else failures + 1
                furthest = max(furthest, received())
                if failures >= self.attempts:
                    raise DownloadError(f"{error} ({failures} times in a row)") from None
                delay = min(max(error.retry_after, self.backoff * 2 ** max(failures - 1, 0)), self.max_backoff)
                LOG.warning("%s: %s; trying again in %s", url, error, format_duration(delay))
                cancelled.wait(delay)


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
        DownloadError: the address does not have the file, or keeps failing.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    transfer = _Transfer(url, partial, has_checksum, retry.timeout, progress, cancelled)
    resumed = retry.run(transfer.request, url, cancelled=cancelled, received=transfer.size)
    with open(partial, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, target)
    transfer.version.unlink(missing_ok=True)
    return resumed


def fetch_bytes(url: str, *, limit: int, retry: RetryPolicy) -> bytes | None:
    """The content of a small file, or None where the server does not have it.

    Raises:
        DownloadError: the server cannot be asked, or the file is larger than ``limit`` bytes.
    """

    def request() -> bytes | None:
        with _get(url, {}, retry.timeout) as response:
            if response.status_code in _ABSENT:
                return None
            _raise_for_status(response)
            with _network_errors():
                content: bytes = response.raw.read(limit + 1)
        if len(content) > limit:
            raise DownloadError(f"{url}: over {limit:,} bytes")
        return content

    return retry.run(request, url)


@dataclass
class _Transfer:
    """Requests for one file, each of which continues the ``.part`` file where possible."""

    url: str
    partial: Path
    has_checksum: bool
    timeout: float
    progress: ProgressBar
    cancelled: threading.Event
    _shown: int = 0
    _shown_total: int = 0

    @property
    def version(self) -> Path:
        """The file of the version of the ``.part`` file: its ETag or Last-Modified, for If-Range."""
        return self.partial.with_name(self.partial.name + ".version")

    def size(self) -> int:
        """Bytes that have arrived."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def request(self) -> bool:
        """One request. Returns whether it continued an earlier one. Raises TransientError where another may help."""
        have, version = self.size(), self._known_version()
        headers = {}
        if have and (version or self.has_checksum):
            headers = {"Range": f"bytes={have}-", **({"If-Range": version} if version else {})}
        with _get(self.url, headers, self.timeout) as response:
            content_range = response.headers.get("Content-Range", "")
            if response.status_code == 416 and content_range == f"bytes */{have}":
                self._show(have, have)  # nothing follows: the file is complete
                return True
            if response.status_code == 416:
                self.partial.unlink(missing_ok=True)
                raise TransientError("the server has another version now")
            _raise_for_status(response)
            resumed = response.status_code == 206
            if resumed and not content_range.startswith(f"bytes {have}-"):
                self.partial.unlink(missing_ok=True)
                raise TransientError("the server sent another range than requested")
            if not resumed:  # before the version is recorded: a kill must not leave bytes of another one
                self.partial.unlink(missing_ok=True)
            length = response.headers.get("Content-Length", "")
            start = have if resumed else 0
            end = start + int(length) if length.isdecimal() else 0
            self._show(start, end)
            self._record_version(response.headers)
            with open(self.partial, "ab" if resumed else "wb") as stream:
                while block := _read(response, f"the connection was cut at {self._shown:,} of {end:,} bytes"):
                    stream.write(block)
                    stream.flush()
                    self._shown += len(block)
                    self.progress.advance(len(block))
                    if self.cancelled.is_set():
                        raise TransientError("interrupted")
        return resumed

    def _show(self, start: int, end: int) -> None:
        """Set this file's part of the progress to where the request starts and how far it goes."""
        self.progress.advance(start - self._shown)
        self.progress.add_total(end - self._shown_total)
        self._shown, self._shown_total = start, end

    def _known_version(self) -> str:
        """The version of the bytes in the ``.part`` file, or "" where it is not known."""
        return self.version.read_text("utf-8") if self.version.exists() else ""

    def _record_version(self, headers: Mapping[str, str]) -> None:
        tag = headers.get("ETag", "")  # a weak one, W/"…", does not identify bytes
        with atomic_write(self.version) as stream:
            stream.write((tag if tag.startswith('"') else headers.get("Last-Modified", "")).encode("utf-8"))


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


def _read(response: requests.Response, cut: str) -> bytes:
    """The next bytes of a body as soon as any arrive; none at its end."""
    with _network_errors(cut):
        block: bytes = response.raw.read1(_BLOCK)
        return block


def _raise_for_status(response: requests.Response) -> None:
    status = response.status_code
    if status in _TRANSIENT:
        after = response.headers.get("Retry-After", "")
        raise TransientError(f"HTTP {status}", float(after) if after.isdecimal() else 0.0)
    if status not in (200, 206):
        raise DownloadError(f"HTTP {status}")


@contextlib.contextmanager
def _network_errors(cut: str = "the connection was cut") -> Iterator[None]:
    """Errors of the network as TransientError, or as DownloadError where a retry cannot help."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        cause = _innermost(error)
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            raise DownloadError(f"its certificate cannot be verified ({cause})") from None
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
            raise DownloadError("the host is not known") from None
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
            raise TransientError("no answer in time") from None
        if isinstance(error, (urllib3.exceptions.IncompleteRead, urllib3.exceptions.ProtocolError)):
            raise TransientError(cut) from None
        if isinstance(error, (requests.RequestException, ValueError)) and not isinstance(
            error, requests.ConnectionError
        ):
            raise DownloadError(str(error)) from None  # such as a malformed address, or too many redirects
        raise TransientError(re.sub(r"^\[Errno -?\d+\] ", "", str(cause)) or type(cause).__name__) from None


def _innermost(error: BaseException) -> BaseException:
    """The first cause of an error, which requests and urllib3 wrap several times."""
    while isinstance(inner := getattr(error, "reason", None) or error.__cause__ or error.__context__, BaseException):
        error = inner
    return error
