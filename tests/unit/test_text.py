"""Lines end at \\n only, text is strict UTF-8, and files appear whole."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import decode_lines, read_lines, read_parallel, write_lines


def lines_of(data: bytes, *, replace: bool = False) -> list[str]:
    return list(decode_lines(io.BytesIO(data), "stream", replace=replace))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\n\n", ["", ""]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r\r\n", ["a\rb\r"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        ("a\u2028b\u0085c\x0bd\x0ce\x00f\x1cg\n".encode(), ["a\u2028b\u0085c\x0bd\x0ce\x00f\x1cg"]),
        (b"  a \t\n", ["  a \t"]),
    ],
)
def test_only_newline_ends_a_line(data: bytes, expected: list[str]) -> None:
    assert lines_of(data) == expected


def test_invalid_bytes_are_refused_with_their_place() -> None:
    with pytest.raises(DataError, match=r"^stream:2: invalid UTF-8 \(byte 0xff at position 3\)"):
        lines_of(b"good\nba\xffd\n")


def test_invalid_bytes_are_replaced_on_request_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert lines_of(b"a\n\xff\nb\xfe\n", replace=True) == ["a", "\ufffd", "b\ufffd"]
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "stream:2: invalid UTF-8 (byte 0xff at position 1)"
    ]


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read: No such file"):
        list(read_lines(tmp_path / "absent.txt"))
    with pytest.raises(DataError, match="Is a directory"):
        list(read_lines(tmp_path))


def test_parallel_files_are_paired(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"1\n\n3")
    target.write_bytes(b"x\ny\nz\n")
    assert list(read_parallel(source, target)) == [("1", "x"), ("", "y"), ("3", "z")]


@pytest.mark.parametrize(
    ("left", "right", "counts"), [(2, 5, "2 lines, .*b: 5 lines"), (4, 1, "4 lines, .*b: 1 lines")]
)
def test_unequal_line_counts_are_both_reported(tmp_path: Path, left: int, right: int, counts: str) -> None:
    write_lines(tmp_path / "a", ["x"] * left)
    write_lines(tmp_path / "b", ["x"] * right)
    with pytest.raises(DataError, match=counts):
        list(read_parallel(tmp_path / "a", tmp_path / "b"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    assert write_lines(path, ["old"]) == 1

    def failing() -> object:
        yield "new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_lines(path, failing())  # type: ignore[arg-type]
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_text_is_read_whatever_its_name(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "text"
    content = "".join(f"Zeile {i * i}\n" for i in range(50)).encode()
    path.write_bytes(compress(content))
    assert list(read_lines(path)) == content.decode().splitlines()
    path.write_bytes(compress(content)[:-9])
    with pytest.raises(DataError, match="text: cannot be read"):
        list(read_lines(path))


def test_a_directory_and_zstd_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path))
    (tmp_path / "text.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(DataError, match="compressed with zstd; accepted: plain text, gzip, bzip2, xz"):
        list(read_lines(tmp_path / "text.zst"))
