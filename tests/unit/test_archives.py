"""Members are streamed from every format, and hostile or damaged archives are refused in one line."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from packing import COMPRESSORS, archive, packed, tar_bytes, zip_bytes

from nmt_rela.preparation.sources import archives
from nmt_rela.preparation.sources.archives import (
    CorruptArchiveError,
    LocalArchive,
    list_members,
    natural_order,
    open_member,
)
from nmt_rela.preparation.sources.task import ARCHIVE_FORMATS
from nmt_rela.utils.errors import DataError

TEXT = "eins\nzwei\u2028\ndrei".encode()


def content(files: LocalArchive, member: str) -> bytes:
    with open_member(files, member) as stream:
        return stream.read()


def test_every_format_gives_its_text(tmp_path: Path) -> None:
    for archive_format, (container, _) in ARCHIVE_FORMATS.items():
        data = packed(archive_format, {"./a/text.de": TEXT} if container != "zip" else {"a/text.de": TEXT})
        files = archive(tmp_path / archive_format, archive_format, data)
        assert content(files, "" if container == "file" else "a/text.de") == TEXT, archive_format


@pytest.mark.parametrize("archive_format", ["tar.gz", "gz"])
def test_parts_are_joined(tmp_path: Path, archive_format: str) -> None:
    data = packed(archive_format, {"text": TEXT})
    files = archive(tmp_path / "split", archive_format, data[:7], b"", data[7:30], data[30:])
    assert content(files, "" if archive_format == "gz" else "text") == TEXT


@pytest.mark.parametrize("compression", [name for name in COMPRESSORS if name])
def test_compressed_members_are_opened_as_well(tmp_path: Path, compression: str) -> None:
    member = f"text.{compression}"
    data = COMPRESSORS[compression](TEXT)
    assert content(archive(tmp_path / "a", "tar", tar_bytes({"other": b"x", member: data})), member) == TEXT
    assert content(archive(tmp_path / "b", "zip", zip_bytes({member: data})), member) == TEXT


@pytest.mark.parametrize("compression", [name for name in COMPRESSORS if name])
def test_the_content_decides_and_not_the_name(tmp_path: Path, compression: str) -> None:
    data = COMPRESSORS[compression](TEXT)
    for index, archive_format in enumerate(("plain", "gz", "bz2", "xz")):
        assert content(archive(tmp_path / str(index), archive_format, data), "") == TEXT
    assert content(archive(tmp_path / "tar", "tar", tar_bytes({"text.txt": data})), "text.txt") == TEXT


@pytest.mark.parametrize("archive_format", ["tgz", "zip"])
def test_globs_are_listed_in_natural_order(tmp_path: Path, archive_format: str) -> None:
    names = ["d/Book10_en.txt", "d/Book2_en.txt", "d/Book1_en.txt", "d/Book1_cn.txt", "README"]
    files = archive(tmp_path / "a", archive_format, packed(archive_format, dict.fromkeys(names, b"x\n")))
    assert list_members(files, "d/*_en.txt") == ["d/Book1_en.txt", "d/Book2_en.txt", "d/Book10_en.txt"]
    folders = archive(tmp_path / "b", "zip", zip_bytes({"d/": b"", "d/a/": b"", "d/b": b""}))
    assert list_members(folders, "d/*") == ["d/b"]
    with pytest.raises(DataError, match="no member matches"):
        list_members(files, "d/*_fr.txt")
    with pytest.raises(DataError, match=r"no member matches 'd/Book2_\?\.txt'; did you mean 'd/Book2_en\.txt'"):
        list_members(files, "d/Book2_?.txt")
    with pytest.raises(DataError, match=r"has no member 'd/Book3_en\.txt'; did you mean 'd/Book\d+_en\.txt'"):
        content(files, "d/Book3_en.txt")


def test_natural_order_compares_any_names() -> None:
    names = ["10", "9", "a10b2", "a10b1", "a9", "a", "", "1a", "٣"]
    assert sorted(names, key=natural_order) == ["", "1a", "9", "10", "a", "a9", "a10b1", "a10b2", "٣"]


@pytest.mark.parametrize("name", ["../text", "a/../../text", "/etc/text", "C:\\text", "..\\text"])
@pytest.mark.parametrize("archive_format", ["tgz", "zip"])
def test_a_member_name_outside_the_archive_matches_nothing(tmp_path: Path, archive_format: str, name: str) -> None:
    """Nothing is extracted, so that such a member does no harm."""
    directory = tmp_path / "deep" / "folder"
    directory.mkdir(parents=True)
    files = archive(directory / "a", archive_format, packed(archive_format, {name: b"x", "text": TEXT}))
    assert content(files, "text") == TEXT
    assert content(files, name) == b"x"
    assert len(list_members(files, "*")) == 2
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "deep/folder/a.00"
    }


@pytest.mark.parametrize("archive_format", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_tar_members_that_are_no_files_are_refused(tmp_path: Path, archive_format: bytes) -> None:
    info = tarfile.TarInfo("text")
    info.type, info.linkname = archive_format, "/etc/passwd"
    files = archive(tmp_path / "a", "tar", tar_bytes({"text": info}))
    with pytest.raises(DataError, match="no plain file"):
        content(files, "text")
    with pytest.raises(DataError, match="no member matches"):
        list_members(files, "t*")


def test_sparse_tar_members_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("text")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": "99999999999",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.name": "text",
        "GNU.sparse.numblocks": "1",
    }
    info.size = 1
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="sparse"):
        content(archive(tmp_path / "a", "tar", buffer.getvalue()), "text")


def test_zip_links_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
        zipped.writestr("text", TEXT)
    with pytest.raises(DataError, match="no plain file"):
        content(archive(tmp_path / "a", "zip", buffer.getvalue()), "link")
    data = bytearray(buffer.getvalue())
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.rindex(signature) + place] |= 1
    with pytest.raises(DataError, match="encrypted"):
        content(archive(tmp_path / "b", "zip", bytes(data)), "text")


@pytest.mark.parametrize("archive_format", ["gz", "xz", "bz2", "tgz", "zip", "tar"])
def test_bombs_are_refused_while_they_expand(
    tmp_path: Path, archive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_EXPANSION", 1 << 16)
    bomb = bytes(1 << 24)
    members = {"text.gz": COMPRESSORS["gz"](bomb)} if archive_format == "tar" else {"text": bomb}
    files = archive(tmp_path / "bomb", archive_format, packed(archive_format, members))
    read = 0
    with (
        pytest.raises(DataError, match="100 times its size; refused"),
        open_member(files, "" if ARCHIVE_FORMATS[archive_format][0] == "file" else next(iter(members))) as stream,
    ):
        while block := stream.read(4096):
            read += len(block)
    assert read < len(bomb) / 2


@pytest.mark.parametrize("archive_format", ["tgz", "zip"])
def test_a_bomb_within_a_bomb_counts_from_the_archive(
    tmp_path: Path, archive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_EXPANSION", 1 << 16)
    inner = b"".join(COMPRESSORS["gz"](bytes(1 << 20)) for _ in range(64))
    files = archive(tmp_path / "bomb", archive_format, packed(archive_format, {"text.gz": inner}))
    assert files.size < len(inner) / 10, "the inner file would be allowed a hundred times its own size"
    read = 0
    with pytest.raises(DataError, match="100 times its size; refused"), open_member(files, "text.gz") as stream:
        while block := stream.read(1 << 16):
            read += len(block)
    assert read <= 100 * files.size


@pytest.mark.parametrize("archive_format", ["xz", "tar.xz"])
def test_xz_that_needs_much_memory_is_refused(
    tmp_path: Path, archive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_XZ_MEMORY", 1 << 20)
    files = archive(tmp_path / "greedy", archive_format, packed(archive_format, {"text": TEXT}))
    with pytest.raises(DataError, match=r"takes more than 1 MiB of memory; refused") as caught:
        content(files, "" if archive_format == "xz" else "text")
    assert not isinstance(caught.value, CorruptArchiveError), "another copy would be no better"
    info = zipfile.ZipInfo("text")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr(info, TEXT, zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="packed by method 14; accepted: stored, deflate, bzip2"):
        content(archive(tmp_path / "b", "zip", buffer.getvalue()), "text")


def test_xz_streams_are_joined_over_their_padding(tmp_path: Path) -> None:
    one = COMPRESSORS["xz"](TEXT)
    assert (
        content(archive(tmp_path / "a", "xz", one + bytes(4) + one + bytes(1 << 21) + one + bytes(8)), "") == 3 * TEXT
    )
    for damaged in (one + b"no stream", one + one[:-1], b"", one[:-1]):
        with pytest.raises(CorruptArchiveError):
            content(archive(tmp_path / "a", "xz", damaged), "")


@pytest.mark.parametrize("archive_format", ["gz", "xz", "bz2", "tgz", "tar.xz", "tar.bz2", "tar", "zip"])
def test_truncated_and_corrupt_archives_name_themselves(tmp_path: Path, archive_format: str) -> None:
    text = bytes(range(256)) * 300
    whole = packed(archive_format, {"text": text})
    corrupt = bytearray(whole)
    middle = len(corrupt) // 2
    corrupt[middle : middle + 64] = bytes(64)
    truncated = [whole[: len(whole) // 2], whole[: len(whole) // 4], whole[:1]]
    for damaged in (
        truncated if archive_format == "tar" else [*truncated, whole[: len(whole) * 9 // 10], bytes(corrupt)]
    ):
        files = archive(tmp_path / "damaged", archive_format, damaged)
        with pytest.raises(CorruptArchiveError, match=r"archive 'damaged' is truncated or damaged \(") as caught:
            content(files, "" if ARCHIVE_FORMATS[archive_format][0] == "file" else "text")
        assert caught.value.archive == files
        assert "\n" not in str(caught.value)


def test_a_page_instead_of_an_archive_is_corrupt(tmp_path: Path) -> None:
    page = b"<html><body>Please log in</body></html>" * 50
    for archive_format in ("gz", "xz", "bz2", "tgz", "zip", "tar"):
        with pytest.raises(CorruptArchiveError):
            content(
                archive(tmp_path / "page", archive_format, page),
                "" if ARCHIVE_FORMATS[archive_format][0] == "file" else "text",
            )


def test_a_member_that_claims_too_many_bytes_and_endless_headers_are_refused(tmp_path: Path) -> None:
    huge, link = tarfile.TarInfo("huge"), tarfile.TarInfo("././@LongLink")
    huge.size, link.size, link.type = 10**16, 5, b"L"
    chain = (link.tobuf(tarfile.GNU_FORMAT) + b"abcd".ljust(512, b"\0")) * 5000
    for data in (huge.tobuf(tarfile.GNU_FORMAT) + bytes(2048), chain):
        path = tmp_path / "a.tar"
        path.write_bytes(data)
        with pytest.raises(CorruptArchiveError):
            content(LocalArchive(name="a", format="tar", paths=(path,), digest=""), "text")
