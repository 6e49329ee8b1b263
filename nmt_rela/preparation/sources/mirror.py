"""Mirror of the internet: a directory or URL that serves ``<mirror>/<host>/<path>`` for every URL.

``NMT_RELA_MIRROR`` names it. Where the mirror has a file ``SHA256SUMS``, its checksums replace the published ones.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from urllib.parse import unquote, urlsplit

from nmt_rela.preparation.sources.download import AbsentError, DownloadError, RetryPolicy, download
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.progress import ProgressBar

LOG = logging.getLogger(__name__)

MIRROR_VARIABLE = "NMT_RELA_MIRROR"


class Mirror:
    """A directory or URL that holds copies of URLs."""

    def __init__(self, location: str) -> None:
        self._url = location.rstrip("/") if re.match(r"https?://", location) else ""
        self._directory = None if self._url else Path(os.path.expanduser(location.removeprefix("file://"))).absolute()
        self._checksums: dict[str, str] = {}

    def read_checksums(self, retry: RetryPolicy) -> None:
        """Read the mirror's list, if it has one. Raises DataError where there is no mirror."""
        if self._directory and not self._directory.is_dir():
            accepted = "a directory, or an http(s) URL"
            raise DataError(f"{MIRROR_VARIABLE}: {self._directory}: no such directory; accepted: {accepted}")
        if self._checksums:
            return
        with TemporaryDirectory() as scratch, ProgressBar("fetching", unit="B") as progress:
            path = (self._directory or Path(scratch)) / "SHA256SUMS"
            if self._url:
                url = f"{self._url}/SHA256SUMS"
                try:
                    download(url, path, has_checksum=False, retry=retry, progress=progress, cancelled=Event())
                except AbsentError:
                    return
                except DownloadError as error:
                    raise DataError(f"{MIRROR_VARIABLE}: {url}: {error}; accepted: a mirror that answers") from None
            text = path.read_text("utf-8", "replace") if path.is_file() else ""
        if text:
            lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](?:\./)?(.+?)\r?$", text, re.MULTILINE)
            self._checksums = {name: digest.lower() for digest, name in lines}
            LOG.info("checksums are those of the mirror: %s/SHA256SUMS", self._url or self._directory)

    def locate(self, url: str) -> str | Path:
        """The URL or the file that holds the copy of a URL."""
        if self._directory:
            return self._directory / path_of_url(url)
        return f"{self._url}/{host_of_url(url)}{urlsplit(url).path}"

    def sha256(self, url: str) -> str:
        """The checksum by the mirror's own list, or "" where it does not list the URL."""
        return self._checksums.get(f"{host_of_url(url)}{unquote(urlsplit(url).path)}", "")


def host_of_url(url: str) -> str:
    """The host of a URL, with its port where it names one."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def path_of_url(url: str) -> Path:
    """``<host>/<path>`` of a URL as a relative path, without components that lead elsewhere."""
    names = [host_of_url(url), *unquote(urlsplit(url).path).split("/")]
    return Path(*(name for name in names if name not in ("", ".", "..")))
