"""Mirror of the internet: a directory or URL that serves ``<mirror>/<host>/<path>`` for every URL.

``NMT_RELA_MIRROR`` names it. Where the mirror has a file ``SHA256SUMS``, its checksums replace the published ones.
"""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nmt_rela.preparation.sources.download import RetryPolicy, fetch_bytes
from nmt_rela.utils.errors import DataError

LOG = logging.getLogger(__name__)

MIRROR_VARIABLE = "NMT_RELA_MIRROR"
_MAX_SUMS = 16 << 20


class Mirror:
    """A directory or URL that holds copies of URLs."""

    def __init__(self, place: str, *, retry: RetryPolicy) -> None:
        self._retry = retry
        self._checksums: dict[str, str] | None = None
        self._lock = threading.Lock()
        self._url = place.rstrip("/") if re.match(r"https?://", place) else ""
        self._directory = None if self._url else Path(place.removeprefix("file://")).expanduser().absolute()

    def check(self) -> None:
        """Raise DataError for a directory that does not exist."""
        if self._directory and not self._directory.is_dir():
            accepted = "a directory, or an http(s) URL"
            raise DataError(f"{MIRROR_VARIABLE}: {self._directory}: no such directory; accepted: {accepted}")

    def locate(self, url: str) -> str | Path:
        """The URL or the file that holds the copy of a URL."""
        if self._directory:
            return self._directory / path_of_url(url)
        return f"{self._url}/{host_of_url(url)}{urlsplit(url).path}"

    def sha256(self, url: str) -> str:
        """The checksum by the mirror's own list, or "" where it does not list the URL."""
        with self._lock:
            if self._checksums is None:
                self._checksums = self._read_checksums()
                if self._checksums:
                    LOG.info("checksums are those of the mirror: %s/SHA256SUMS", self._url or self._directory)
        return self._checksums.get(f"{host_of_url(url)}{unquote(urlsplit(url).path)}", "")

    def _read_checksums(self) -> dict[str, str]:
        if self._directory:
            path = self._directory / "SHA256SUMS"
            data = path.read_bytes() if path.is_file() else b""
        else:
            data = fetch_bytes(f"{self._url}/SHA256SUMS", limit=_MAX_SUMS, retry=self._retry) or b""
        lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](?:\./)?(.+?)\r?$", data.decode("utf-8", "replace"), re.MULTILINE)
        return {name: digest.lower() for digest, name in lines}


def host_of_url(url: str) -> str:
    """The host of a URL, with its port where it names one."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def path_of_url(url: str) -> Path:
    """``<host>/<path>`` of a URL as a relative path, without components that lead elsewhere."""
    names = [host_of_url(url), *unquote(urlsplit(url).path).split("/")]
    return Path(*(name for name in names if name not in ("", ".", "..")))
