"""Fetching one file over HTTP: resumed after a cut or a kill, retried with growing pauses.

Proxies are those of the environment (``https_proxy``, ``no_proxy``); certificates are always verified, and a
redirection from https to http is refused.
"""

from __future__ import annotations

import contextlib
import email.message
import http.client
import json
import logging
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from nmt_rela.utils.progress import Progress, duration
from nmt_rela.utils.text import atomic_write

LOG = logging.getLogger(__name__)

_BLOCK = 1 << 16
#: Answers after which the same request may succeed: time-out, too many requests, and faults of the server.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(Exception):
    """A file that cannot be had from this address; another one may do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How much trouble is put up with."""

    #: Requests in a row that bring nothing new before an address is given up.
    attempts: int = 5
    #: Seconds without a byte after which a connection counts as dead.
    timeout: float = 60.0
    #: Seconds before the second request; doubled for each further one.
    pause: float = 1.0
    #: No pause is longer, whatever the server asks for.
    longest_pause: float = 60.0

    def pause_after(self, failures: int, *, asked: float = 0.0) -> float:
        """Seconds to wait after so many failures in a row, of which the server asked for some."""
        return min(max(asked, self.pause * 2 ** max(failures - 1, 0)), self.longest_pause)


class _Passing(Exception):
    """A failure after which the same request may succeed, perhaps after a pause the server asked for."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirections as urllib follows them, with 308 (which Python 3.10 lacks) and never out of TLS."""

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DownloadError(f"redirects to {newurl}, out of https; refused")
        # urllib's own method refuses 308 in Python 3.10; for a GET it means the same as 307.
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


def download(
    url: str, target: Path, *, trusted: bool, patience: RetryPolicy, progress: Progress, stop: threading.Event
) -> bool:
    """Fetch a URL to a file, which appears under its name only when complete.

    What has arrived is kept in ``<target>.part`` until then, also over a kill, and is added to.

    Args:
        trusted: the caller checks the result against a known checksum, so that a beginning of unknown version may be
            completed.
        stop: when it is set, the transfer ends with a DownloadError as soon as it can.

    Returns:
        Whether a beginning from an earlier request was completed.

    Raises:
        DownloadError: the address does not have the file, or keeps failing.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    transfer = _Transfer(url, partial, trusted=trusted, timeout=patience.timeout, progress=progress, stop=stop)
    failures, furthest = 0, transfer.size()
    resumed = False
    while True:
        try:
            resumed = transfer.run() or resumed
            break
        except _Passing as error:
            if stop.is_set():
                raise DownloadError("interrupted") from None
            here = transfer.size()
            failures, furthest = (0, here) if here > furthest else (failures + 1, furthest)
            if failures >= patience.attempts:
                raise DownloadError(f"{error} ({failures} times in a row)") from None
            pause = patience.pause_after(failures, asked=error.pause)
            LOG.warning("%s: %s; trying again in %s", url, error, duration(pause))
            stop.wait(pause)
    with open(partial, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, target)
    transfer.note.unlink(missing_ok=True)
    return resumed


def read_small(url: str, *, limit: int, patience: RetryPolicy) -> bytes | None:
    """The content of a small file, or None where the server does not have it.

    Raises:
        DownloadError: the server cannot be asked, or the file is larger than ``limit``.
    """
    failures = 0
    while True:
        try:
            return _read_small(url, limit, patience.timeout)
        except _Passing as error:
            failures += 1
            if failures >= patience.attempts:
                raise DownloadError(f"{url}: {error}") from None
            time.sleep(patience.pause_after(failures, asked=error.pause))


def _read_small(url: str, limit: int, timeout: float) -> bytes | None:
    try:
        with _ask(urllib.request.Request(url), timeout) as response, _network():
            data: bytes = response.read(limit + 1)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            return None
        raise _refusal(error) from None
    if len(data) > limit:
        raise DownloadError(f"{url}: over {limit:,} bytes")
    return data


class _Transfer:
    """Requests for one file, each of which adds to the same beginning of it."""

    def __init__(
        self, url: str, partial: Path, *, trusted: bool, timeout: float, progress: Progress, stop: threading.Event
    ) -> None:
        self.partial = partial
        self.note = partial.with_name(partial.name + ".json")
        self._url = url
        self._trusted = trusted
        self._timeout = timeout
        self._progress = progress
        self._stop = stop
        self._counted = self._expected = 0

    def size(self) -> int:
        """Bytes that have arrived."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def run(self) -> bool:
        """One request; returns whether it completed an earlier one. Raises _Passing where another may help."""
        have = self.size()
        request = urllib.request.Request(self._url, headers={"User-Agent": "nmt_rela", "Accept-Encoding": "identity"})
        validator = self._validator()
        if have and (validator or self._trusted):
            request.add_header("Range", f"bytes={have}-")
            if validator:
                request.add_header("If-Range", validator)
        try:
            response = _ask(request, self._timeout)
        except urllib.error.HTTPError as error:
            return self._refused(error, have)
        with response:
            resumed = response.status == 206
            if resumed and _range_start(response.headers) != have:
                self._discard()
                raise _Passing("the server sent another range than it was asked for")
            start = have if resumed else 0
            length = response.headers.get("Content-Length", "")
            end = start + int(length) if length.isdecimal() else 0
            self._show(start, end)
            if not resumed:
                self._discard()  # a kill after the note must not leave bytes of another version beside it
            self._write_note(response.headers)
            with open(self.partial, "ab" if resumed else "wb") as stream:
                self._copy(response, stream)
        have = self.size()
        if end and have < end:
            raise _Passing(f"the connection was cut at {have:,} of {end:,} bytes")
        return resumed

    def _copy(self, response: Any, stream: BinaryIO) -> None:
        while True:
            if self._stop.is_set():
                raise _Passing("interrupted")
            with _network():
                block = response.read1(_BLOCK)
            if not block:
                return
            stream.write(block)
            self._counted += len(block)
            self._progress.add(len(block))

    def _refused(self, error: urllib.error.HTTPError, have: int) -> bool:
        with error:
            if error.code == 416:
                # There is nothing after what we have: it is all, or it is not what the server has now.
                total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
                if total and int(total[1]) == have:
                    self._show(have, have)
                    return True
                self._discard()
                raise _Passing("the server has another version now")
            raise _refusal(error)

    def _show(self, start: int, end: int) -> None:
        """Bring the common progress into line with where this request starts and how far it goes."""
        self._progress.add(start - self._counted)
        self._progress.expect(end - self._expected)
        self._counted, self._expected = start, end

    def _validator(self) -> str:
        """What names the version of the beginning we have, for If-Range; "" where nothing does."""
        try:
            note = json.loads(self.note.read_text("utf-8"))
            return str(note["validator"]) if note["url"] == self._url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _write_note(self, headers: email.message.Message) -> None:
        tag = headers.get("ETag", "")
        validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")
        with atomic_write(self.note) as stream:
            stream.write(json.dumps({"url": self._url, "validator": validator}).encode("utf-8"))

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)


def _ask(request: urllib.request.Request, timeout: float) -> Any:
    """The response to a request. Raises HTTPError for the server's refusals, and otherwise as ``_network``."""
    with _network():
        return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Faults of the network as _Passing, or as DownloadError where asking again is no use."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"its certificate cannot be verified ({reason.verify_message})") from None
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            raise DownloadError("the host is not known") from None
        if isinstance(reason, ValueError) and not isinstance(reason, OSError):
            raise DownloadError(str(reason)) from None
        if isinstance(reason, TimeoutError):
            raise _Passing("no answer in time") from None
        raise _Passing(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__) from None


def _refusal(error: urllib.error.HTTPError) -> Exception:
    """A server's refusal as _Passing or DownloadError."""
    if error.code not in _PASSING:
        return DownloadError(f"HTTP {error.code}")
    after = error.headers.get("Retry-After", "")
    return _Passing(f"HTTP {error.code}", float(after) if after.isdecimal() else 0.0)


def _range_start(headers: email.message.Message) -> int:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else -1
