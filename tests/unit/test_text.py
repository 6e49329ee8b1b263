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
from nmt_rela.utils.text import MAX_LINE, decode_lines, read_lines, read_parallel, write_lines


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


SCRIPTS = {
    "Latin": "Ein Satz.\nNoch einer, mit Wörtern.\n",
    "Cyrillic": "Привет, мир.\nКак дела сегодня?\n",
    "Greek": "Καλημέρα κόσμε.\nΤι κάνεις σήμερα;\n",
    "Arabic": "مرحبا بالعالم.\nكيف حالك اليوم؟\n",
    "Hebrew": "שלום עולם.\nמה שלומך היום?\n",
    "Devanagari": "नमस्ते दुनिया।\nआज आप कैसे हैं?\n",
    "Thai": "สวัสดีชาวโลก\nวันนี้คุณเป็นอย่างไรบ้าง\n",
    "Burmese": "မင်္ဂလာပါကမ္ဘာ\nဒီနေ့နေကောင်းလား\n",
    "Georgian": "გამარჯობა მსოფლიო.\nროგორ ხარ დღეს?\n",
    "Ethiopic": "ሰላም ለዓለም።\nዛሬ እንዴት ነህ?\n",
    "Korean": "안녕하세요 세계.\n오늘 기분이 어때요?\n",
    "Chinese": "你好，世界。\n上海一早上天气很好。\n",
    "Japanese": "こんにちは、世界。\n今日はお元気ですか。\n",
}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_text_in_utf_16_and_utf_32_is_an_error_that_names_it(script: str, encoding: str) -> None:
    data = SCRIPTS[script].encode(encoding)
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    for replace in (False, True):
        message = rf"^stream: the text is {name}; accepted: UTF-8 \(try: iconv -f {name} -t UTF-8\)"
        with pytest.raises(DataError, match=message):
            lines_of(data, replace=replace)
    assert lines_of(SCRIPTS[script].encode()) == SCRIPTS[script].splitlines()


@pytest.mark.parametrize(("encoding", "script"), [("iso2022_jp", "Japanese"), ("iso2022_kr", "Korean")])
def test_encodings_that_switch_by_escape_sequences_are_named(encoding: str, script: str) -> None:
    with pytest.raises(
        DataError, match=f"stream: the text is {encoding.upper().replace('O', 'O-').replace('_', '-')};"
    ):
        lines_of(SCRIPTS[script].encode(encoding))


def test_lines_that_end_with_carriage_returns_alone_are_an_error() -> None:
    with pytest.raises(DataError, match=r"stream: lines end with carriage returns alone; accepted: line feeds"):
        lines_of(b"one\rtwo\r" * 10)


@pytest.mark.parametrize("line", [b"\0", b"a\0b", b"\0\0\0\0", b"one\0two\0three", b"caf\xe9 one\0two three four"])
def test_single_nuls_are_not_taken_for_utf_16(line: bytes) -> None:
    assert lines_of(line, replace=True) == [line.decode("utf-8", "replace")]


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10",
        b"\xd8\5\0\0\0\0\0\0" + b'{"weight": 1}' * 9,
        b"caf\xe9" + b"\0text\n" * 9,
    ],
)
def test_binary_data_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^stream: found binary data; accepted: UTF-8 text"):
        lines_of(data, replace=True)


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"\x28\xb5\x2f\xfd rest", "zstd"),
        (b"\x5d\0\0\x80\0 rest", "lzma"),
        (b"PK\x03\x04 rest", "zip"),
        (gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "gzip"),
    ],
)
def test_other_compressions_are_refused_by_name(tmp_path: Path, magic: bytes, name: str) -> None:
    (tmp_path / "text").write_bytes(magic)
    with pytest.raises(DataError, match=f"text: compressed with {name}; accepted: plain text, .gz, .bz2 and .xz"):
        list(read_lines(tmp_path / "text"))


def test_a_line_over_the_limit_is_refused_or_cut_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    data = b"a\n" + "é".encode() * MAX_LINE + b"\nb\n"
    with pytest.raises(DataError, match=r"^stream:2: over 1,048,572 bytes; accepted: shorter lines"):
        lines_of(data)
    first, cut, last = lines_of(data, replace=True)
    assert (first, len(cut), last) == ("a", MAX_LINE // 2, "b")
    assert "stream:2: over 1,048,572 bytes; the rest of the line is left out" in caplog.text
