"""Archives come from the first place that has them, and only if they are the right ones."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path

import pytest
from file_server import CONTENT, Answer, FileServer

from nmt_rela.preparation.sources.archive_cache import ArchiveCache
from nmt_rela.preparation.sources.download import RetryPolicy
from nmt_rela.preparation.sources.task import Archive, Location, RemoteFile
from nmt_rela.utils.errors import DataError

QUICK = RetryPolicy(attempts=3, timeout=5.0, backoff=0.01)


def archive(*locations: RemoteFile | Location, archive_format: str = "plain") -> Archive:
    return Archive(
        name="news",
        locations=tuple(
            item if isinstance(item, Location) else Location(format=archive_format, parts=(item,)) for item in locations
        ),
    )


def cache(directory: Path, *, mirror: str = "") -> ArchiveCache:
    return ArchiveCache(directory / "archives", mirror=mirror, retry=QUICK)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_next_mirror_is_tried(server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing, good = RemoteFile(url=f"{server.url}/missing"), RemoteFile(url=server.serve("/good", CONTENT))
    (files,) = cache(tmp_path).fetch([archive(missing, good)])
    assert files.paths[0].read_bytes() == CONTENT
    assert files.digest == sha256(CONTENT)
    assert "HTTP 404" in caplog.text


def test_a_failed_download_names_all_locations(server: FileServer, tmp_path: Path) -> None:
    parts = [RemoteFile(url=f"{server.url}/a"), RemoteFile(url=server.serve("/b", CONTENT), sha256="0" * 64)]
    with pytest.raises(DataError, match=r"archive 'news' cannot be had: .*/a: HTTP 404; .*/b: wrong sha256") as caught:
        cache(tmp_path).fetch([archive(*parts)])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("b"))


@pytest.mark.parametrize(
    "wrong", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"bytes": 3}, {"sha256": sha256(CONTENT), "md5": "1" * 32}]
)
def test_content_with_a_wrong_checksum_is_deleted(server: FileServer, tmp_path: Path, wrong: dict[str, str]) -> None:
    bad = RemoteFile(url=server.serve("/bad", CONTENT), **wrong)  # type: ignore[arg-type]
    good = RemoteFile(url=server.serve("/good", CONTENT), md5=hashlib.md5(CONTENT).hexdigest(), bytes=len(CONTENT))
    (files,) = cache(tmp_path).fetch([archive(bad, good)])
    assert files.paths[0].name == "good"
    assert sorted(path.name for path in (tmp_path / "archives").rglob("[!.]*") if path.is_file()) == [
        "checksums.json",
        "good",
    ]


def test_a_wrong_partial_file_is_downloaded_again_from_the_start(server: FileServer, tmp_path: Path) -> None:
    part = RemoteFile(url=server.serve("/a", CONTENT), sha256=sha256(CONTENT))
    path = tmp_path / "archives" / server.url.removeprefix("http://") / "a"
    path.parent.mkdir(parents=True)
    path.with_name("a.part").write_bytes(b"x" * 1000)
    (files,) = cache(tmp_path).fetch([archive(part)])
    assert files.paths[0].read_bytes() == CONTENT
    assert server.ranges("/a") == ["bytes=1000-", ""]


def test_wrong_content_after_a_wrong_partial_file_and_a_cut_is_refused(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a", CONTENT, Answer(), Answer(cut=70_000))
    path = tmp_path / "archives" / server.url.removeprefix("http://") / "a"
    path.parent.mkdir(parents=True)
    path.with_name("a.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="wrong sha256"):
        cache(tmp_path).fetch([archive(RemoteFile(url=url, sha256="0" * 64))])


def test_two_archives_may_use_one_file(server: FileServer, tmp_path: Path) -> None:
    location = Location(
        format="plain", parts=(RemoteFile(url=server.serve("/a", CONTENT, Answer(pause=0.02, block=20_000))),)
    )
    twins = [Archive(name=name, locations=(location,)) for name in "abcd"]
    assert len({found.digest for found in cache(tmp_path).fetch(twins)}) == 1
    assert server.ranges("/a") == [""]


def test_queries_of_one_path_are_different_files(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/get", b"", Answer(content=b"one"), Answer(content=b"two"))
    one, two = (archive(RemoteFile(url=f"{url}?file={name}")) for name in ("one", "two"))
    for wanted, content in ((one, b"one"), (two, b"two"), (one, b"one")):
        assert cache(tmp_path).fetch([wanted])[0].paths[0].read_bytes() == content


def test_a_missing_path_is_not_preferred(server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = Location(format="plain", path=tmp_path / "absent")
    wanted = archive(absent, RemoteFile(url=server.serve("/a", CONTENT)))
    cache(tmp_path).fetch([wanted])
    assert cache(tmp_path).known_digest(wanted) == sha256(CONTENT)
    caplog.clear()
    cache(tmp_path).fetch([wanted])
    assert caplog.text == ""


def test_an_intact_file_is_not_downloaded_again_and_a_damaged_one_is(server: FileServer, tmp_path: Path) -> None:
    wanted = archive(RemoteFile(url=server.serve("/a", CONTENT)))
    assert cache(tmp_path).known_digest(wanted) is None
    (files,) = cache(tmp_path).fetch([wanted])
    cache(tmp_path).fetch([wanted])
    assert len(server.requests) == 1
    assert cache(tmp_path).known_digest(wanted) == files.digest
    damaged = bytearray(CONTENT)
    damaged[1234] ^= 4
    files.paths[0].write_bytes(damaged)
    cache(tmp_path).fetch([wanted])
    assert files.paths[0].read_bytes() == CONTENT
    files.paths[0].unlink()
    assert cache(tmp_path).known_digest(wanted) == files.digest, (
        "an archive may be deleted when it is not needed any more"
    )


def test_later_downloads_must_agree_with_the_first(server: FileServer, tmp_path: Path) -> None:
    wanted = archive(RemoteFile(url=server.serve("/a", CONTENT)))
    (files,) = cache(tmp_path).fetch([wanted])
    files.paths[0].unlink()
    server.serve("/a", b"something else")
    with pytest.raises(DataError, match=r"wrong size.*recorded at its first download, in .*checksums\.json"):
        cache(tmp_path).fetch([wanted])
    assert json.loads((tmp_path / "archives/checksums.json").read_bytes())["files"][f"{server.url}/a"]["bytes"] == len(
        CONTENT
    )


def test_a_corrupt_archive_is_discarded(server: FileServer, tmp_path: Path) -> None:
    wanted = archive(RemoteFile(url=server.serve("/a", CONTENT)))
    (files,) = cache(tmp_path).fetch([wanted])
    assert cache(tmp_path).discard(files)
    assert cache(tmp_path).known_digest(wanted) is None
    server.serve("/a", b"better")
    assert cache(tmp_path).fetch([wanted])[0].paths[0].read_bytes() == b"better"


def test_a_file_that_was_put_among_the_archives_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "archives/mine.txt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    (files,) = cache(tmp_path).fetch([archive(Location(format="plain", path=path))])
    assert not cache(tmp_path).discard(files)
    assert path.read_bytes() == CONTENT


def test_parts_come_from_one_location_and_have_one_digest(server: FileServer, tmp_path: Path) -> None:
    first = Location(
        format="plain", parts=(RemoteFile(url=server.serve("/1.00", b"a")), RemoteFile(url=f"{server.url}/1.01"))
    )
    urls = [server.serve(f"/2.{number:02}", bytes([number])) for number in range(3)]
    second = Location(format="plain", parts=tuple(RemoteFile(url=url) for url in urls))
    (files,) = cache(tmp_path).fetch([archive(first, second)])
    assert [path.name for path in files.paths] == ["2.00", "2.01", "2.02"]
    assert files.digest == cache(tmp_path).known_digest(archive(first, second)) != sha256(b"\x00")


def test_archives_are_fetched_at_the_same_time(server: FileServer, tmp_path: Path) -> None:
    slow = [
        Archive(
            name=str(n),
            locations=(
                Location(format="plain", parts=(RemoteFile(url=server.serve(f"/{n}", b"x", Answer(wait=0.3))),)),
            ),
        )
        for n in range(4)
    ]
    start = time.monotonic()
    assert len(cache(tmp_path).fetch(slow)) == 4
    assert time.monotonic() - start < 0.9


def test_paths_of_urls_stay_in_the_cache(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/../../a", CONTENT).replace("..", "%2e%2e")
    (files,) = cache(tmp_path).fetch([archive(RemoteFile(url=url))])
    assert tmp_path / "archives" in files.paths[0].resolve().parents


# Mirrors


def test_a_mirror_directory_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "mirror/example.org/pub/a b.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    wanted = archive(RemoteFile(url="https://example.org/none"), RemoteFile(url="https://example.org/pub/a%20b.txt"))
    for place in (str(tmp_path / "mirror"), f"file://{tmp_path}/mirror"):
        (files,) = cache(tmp_path, mirror=place).fetch([wanted])
        assert (files.paths[0], files.digest) == (path, sha256(CONTENT))


def test_checksums_of_a_mirror_take_precedence(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "example.org").mkdir(parents=True)
    (mirror / "example.org/a").write_bytes(CONTENT)
    (mirror / "SHA256SUMS").write_text(f"{sha256(CONTENT)}  example.org/a\n{'0' * 64} *example.org/b\n")
    published = RemoteFile(url="https://example.org/a", sha256="1" * 64, bytes=3)
    with caplog.at_level(logging.INFO, logger="nmt_rela"):
        cache(tmp_path, mirror=str(mirror)).fetch([archive(published)])
    assert "checksums are those of the mirror" in caplog.text
    (mirror / "example.org/b").write_bytes(CONTENT)
    with pytest.raises(DataError, match="wrong sha256"):
        cache(tmp_path, mirror=str(mirror)).fetch([archive(RemoteFile(url="https://example.org/b"))])
    (mirror / "example.org/c").write_bytes(CONTENT)
    with pytest.raises(DataError, match="wrong size"):
        cache(tmp_path, mirror=str(mirror)).fetch([archive(RemoteFile(url="https://example.org/c", bytes=3))])


def test_a_mirror_url_replaces_every_host(server: FileServer, tmp_path: Path) -> None:
    server.serve("/copies/example.org:81/pub/a.txt", CONTENT, Answer(status=503))
    server.serve("/copies/SHA256SUMS", f"{sha256(CONTENT)}  ./example.org:81/pub/a.txt\n".encode(), Answer(status=500))
    wanted = archive(RemoteFile(url="https://example.org:81/pub/a.txt", md5="0" * 32))
    (files,) = cache(tmp_path, mirror=f"{server.url}/copies/").fetch([wanted])
    assert files.paths[0].read_bytes() == CONTENT
    assert cache(tmp_path, mirror=f"{server.url}/copies").known_digest(wanted) == files.digest
    assert cache(tmp_path).known_digest(wanted) == files.digest, "data stays valid when its mirror is gone"


@pytest.mark.parametrize("url", ["https://../secret", "https://host/../../secret", "https://host/%2e%2e/..%2fsecret"])
def test_no_url_leads_out_of_a_mirror_or_of_the_archives(tmp_path: Path, url: str) -> None:
    mirror = tmp_path / "deep/mirror"
    mirror.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "deep"):
        (place / "secret").write_bytes(CONTENT)
    with pytest.raises(DataError, match="not in the mirror"):
        cache(tmp_path, mirror=str(mirror)).fetch([archive(RemoteFile(url=url))])
    assert cache(tmp_path)._target(url).is_relative_to(tmp_path / "archives")
    assert ".." not in cache(tmp_path)._target(url).parts


def test_a_mirror_url_that_does_not_answer_is_named(server: FileServer, tmp_path: Path) -> None:
    wanted = archive(RemoteFile(url="https://example.org/a"))
    with pytest.raises(DataError, match=r"NMT_RELA_MIRROR: http://127\.0\.0\.1:9/SHA256SUMS: .*refused"):
        cache(tmp_path, mirror="http://127.0.0.1:9").fetch([wanted])
    server.serve("/example.org/a", CONTENT)
    (files,) = cache(tmp_path, mirror=server.url).fetch([wanted])
    assert files.paths[0].read_bytes() == CONTENT, "a mirror needs no list of checksums"


def test_a_mirror_that_is_not_there_is_named(tmp_path: Path) -> None:
    for mirror in (str(tmp_path / "nowhere"), "~nobody-at-all/nowhere"):
        with pytest.raises(DataError, match=r"NMT_RELA_MIRROR: .*nowhere: no such directory"):
            cache(tmp_path, mirror=mirror).fetch([archive(RemoteFile(url="https://example.org/a"))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"archive 'news' cannot be had: .*not in the mirror"):
        cache(tmp_path, mirror=str(tmp_path / "empty")).fetch([archive(RemoteFile(url="https://example.org/a"))])
