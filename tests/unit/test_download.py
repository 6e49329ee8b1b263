"""A file arrives whole over a bad connection."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from file_server import CONTENT, Answer, FileServer

from nmt_rela.preparation.sources.download import DownloadError, HttpsSession, RetryPolicy, download
from nmt_rela.utils.progress import ProgressBar

QUICK = RetryPolicy(attempts=3, timeout=5.0, backoff=0.01)


def get(url: str, target: Path, *, retry: RetryPolicy = QUICK, has_checksum: bool = False) -> bool:
    with ProgressBar("fetching", unit="B") as progress:
        return download(
            url, target, has_checksum=has_checksum, retry=retry, progress=progress, cancelled=threading.Event()
        )


def test_a_file_is_downloaded_and_nothing_else_remains(server: FileServer, tmp_path: Path) -> None:
    assert not get(server.serve("/a", CONTENT), tmp_path / "deep/a")
    assert (tmp_path / "deep/a").read_bytes() == CONTENT
    assert os.listdir(tmp_path / "deep") == ["a"]
    get(server.serve("/empty", b""), tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_cut_connection_is_resumed_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a", CONTENT, Answer(cut=70_000), Answer(cut=50_000), Answer(cut=0), Answer(cut=0))
    assert get(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges("/a") == ["", "bytes=70000-", *["bytes=120000-"] * 3]


def test_a_server_that_keeps_failing_is_an_error(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a", CONTENT, Answer(cut=70_000), *[Answer(cut=0)] * 9)
    with pytest.raises(DownloadError, match=r"cut at 70,000 of 200,000 bytes \(3 times in a row\)"):
        get(url, tmp_path / "a")
    assert set(os.listdir(tmp_path)) == {"a.part", "a.part.version"}


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a", CONTENT, Answer(cut=70_000), Answer(ranges=False))
    assert not get(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_partial_file_of_another_version_is_not_continued(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a", CONTENT, Answer(cut=70_000), *[Answer(cut=0)] * 9)
    with pytest.raises(DownloadError):
        get(url, tmp_path / "a")
    newer = bytes(reversed(CONTENT))
    server.serve("/a", newer, tag='"2"')
    assert not get(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == newer


def test_a_kill_before_the_first_byte_of_another_version_leaves_none_of_the_old(
    server: FileServer, tmp_path: Path
) -> None:
    url = server.serve("/a", CONTENT, Answer(cut=70_000), Answer(cut=0))
    with pytest.raises(DownloadError):
        get(url, tmp_path / "a", retry=RetryPolicy(attempts=1, timeout=5.0, backoff=0.01))
    server.serve("/a", CONTENT[::-1], tag='"2"')

    class KilledAtTheStart(ProgressBar):
        def add_total(self, amount: int) -> None:
            raise KeyboardInterrupt

    with KilledAtTheStart("fetching", unit="B") as progress, pytest.raises(KeyboardInterrupt):
        download(url, tmp_path / "a", has_checksum=False, retry=QUICK, progress=progress, cancelled=threading.Event())
    get(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(("has_checksum", "asked"), [(True, "bytes=70000-"), (False, "")])
def test_a_partial_file_without_a_version_needs_a_checksum(
    server: FileServer, tmp_path: Path, has_checksum: bool, asked: str
) -> None:
    url = server.serve("/a", CONTENT, Answer(cut=70_000), tag="")
    assert get(url, tmp_path / "a", has_checksum=has_checksum) == has_checksum
    assert server.ranges("/a") == ["", asked]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_complete_partial_file_is_used(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert get(server.serve("/a", CONTENT), tmp_path / "a", has_checksum=True)
    (tmp_path / "b.part").write_bytes(CONTENT + b"more")
    assert not get(server.serve("/b", CONTENT), tmp_path / "b", has_checksum=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_failures_are_retried(server: FileServer, tmp_path: Path, status: int) -> None:
    get(server.serve("/a", CONTENT, Answer(status=status), Answer(status=status)), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_retry_after_is_obeyed_up_to_the_maximum(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.serve("/a", CONTENT, Answer(status=503, headers={"Retry-After": "7"}))
    retry = RetryPolicy(attempts=2, timeout=5, backoff=0.01, max_backoff=0.2)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        get(url, tmp_path / "a", retry=retry)
    assert 0.2 <= time.monotonic() - start < 3
    assert "HTTP 503; trying again" in caplog.text


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_retried(server: FileServer, tmp_path: Path, status: int) -> None:
    url = server.serve("/a", CONTENT, Answer(status=status))
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        get(url, tmp_path / "a")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(server: FileServer, tmp_path: Path, status: int) -> None:
    there = server.serve("/there", CONTENT, Answer(cut=70_000))
    url = server.serve("/a", b"", *[Answer(status=status, headers={"Location": there})] * 2)
    assert get(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges("/there") == ["", "bytes=70000-"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/a", "http://["])
def test_redirects_to_other_schemes_and_in_loops_are_refused(server: FileServer, tmp_path: Path, location: str) -> None:
    url = server.serve("/a", CONTENT, *[Answer(status=302, headers={"Location": location})] * 99)
    with pytest.raises(DownloadError):
        get(url, tmp_path / "a")


@pytest.mark.parametrize("location", ["http://example.org/a", "//example.org/a", "/b"])
def test_a_redirect_out_of_https_is_refused(location: str) -> None:
    response = requests.Response()
    response.url, response.status_code, response.headers["Location"] = "https://example.org/a", 302, location
    if location.startswith("http:"):
        with pytest.raises(DownloadError, match=r"redirects to http://example\.org/a, out of https; refused"):
            HttpsSession().get_redirect_target(response)
    else:
        assert HttpsSession().get_redirect_target(response) == location


def test_the_timeout_counts_from_the_last_byte(server: FileServer, tmp_path: Path) -> None:
    slow = Answer(pause=0.02, block=20_000)
    get(server.serve("/slow", CONTENT, slow), tmp_path / "slow", retry=RetryPolicy(attempts=1, timeout=0.3))
    url = server.serve("/dead", CONTENT, Answer(wait=1.0))
    with pytest.raises(DownloadError, match="no answer in time"):
        get(url, tmp_path / "dead", retry=RetryPolicy(attempts=1, timeout=0.1))


def test_unreachable_hosts_are_named(tmp_path: Path, server: FileServer) -> None:
    with pytest.raises(DownloadError, match="refused"):
        get("http://127.0.0.1:9/x", tmp_path / "a", retry=RetryPolicy(attempts=1))


def test_a_proxy_of_the_environment_is_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    server.serve("http://example.invalid/a", CONTENT)
    get("http://example.invalid/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.requests == [("http://example.invalid/a", "")]


def test_a_killed_download_is_resumed(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a", CONTENT, Answer(pause=0.05, block=10_000))
    program = (
        "import sys, threading, pathlib\n"
        "from nmt_rela.preparation.sources.download import RetryPolicy, download\n"
        "from nmt_rela.utils.progress import ProgressBar\n"
        "download(sys.argv[1], pathlib.Path(sys.argv[2]), has_checksum=False, retry=RetryPolicy(),"
        " progress=ProgressBar('x', unit='B'), cancelled=threading.Event())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, url, str(tmp_path / "a")])
    deadline = time.monotonic() + 20
    while not ((tmp_path / "a.part").exists() and (tmp_path / "a.part").stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = (tmp_path / "a.part").stat().st_size
    assert 0 < have < len(CONTENT)
    assert get(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges("/a")[-1] == f"bytes={have}-"
