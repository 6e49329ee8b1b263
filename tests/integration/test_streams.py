"""The memory of nmt-translate, and unusual input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_translator import sentences
from translating import Translate

HOSTILE = [
    b"", b"   ", b"\t", "\u2028".encode(), "\u0085".encode(), "der Hund\u2028l\u00e4uft".encode(), b"der\x0bHund\x0c",
    "\U0001f389 \U0001f389\U0001f389".encode(), b"\x00\x01", b"\xff\xfe Hund", b"\xed\xa0\x80", b"Hund\r",
    "\u200b".encode(), "\u2581 \u2581\u2581".encode(), b'"{}\\"',
    b"a" * 300, b"|||", b"Hund ||| Katze", b"<s> </s> <pad> <unk>",
]  # fmt: skip


def lines(output: bytes) -> list[bytes]:
    assert output.endswith(b"\n")
    return output.split(b"\n")[:-1]


def test_hostile_lines_in_every_format(translated: Translate) -> None:
    ordinary = [line.encode() for line in sentences(len(HOSTILE), seed=9, longest=4)]
    given = b"".join(line + b"\n" for pair in zip(HOSTILE, ordinary, strict=True) for line in pair)
    text = lines(translated("--quiet", "--beam-size=2", given=given))
    assert len(text) == 2 * len(HOSTILE)
    assert text[:10:2] == [b""] * 5

    values = [
        json.loads(line)
        for line in lines(translated("--quiet", "--beam-size=2", "--n-best=2", "--format=jsonl", given=given))
    ]
    assert [value["line"] for value in values] == list(range(len(text)))
    for value, line, translation in zip(values, given.split(b"\n"), text, strict=False):
        assert value["source"] == line.removesuffix(b"\r").decode("utf-8", errors="replace")
        assert value["translation"].replace("\n", " ").replace("\r", " ").encode() == translation
        assert value["translation"] == value["hypotheses"][0]["text"]
        assert len(value["hypotheses"]) == (2 if line.strip() and value["hypotheses"][0]["tokens"] else 1)

    moses = [
        line.split(b" ||| ", 1) for line in lines(translated("--quiet", "--beam-size=2", "--n-best=2", given=given))
    ]
    numbers = [int(number) for number, _ in moses]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(text)))
    for _, rest in moses:
        float(rest.rsplit(b"||| ", 1)[1])


def test_a_line_of_ten_thousand_sub_words(translated: Translate, caplog: pytest.LogCaptureFixture) -> None:
    long = b" ".join([b"Hund"] * 3_334)
    before, found, after = lines(
        translated("--quiet", "--beam-size=1", "--format=jsonl", given=b"Hund\n" + long + b"\nKatze\n")
    )
    value = json.loads(found)
    assert "10002 sub-words" in caplog.text
    assert value["source"].encode() == long
    (hypothesis,) = value["hypotheses"]
    assert len(hypothesis["tokens"]) >= 10_002 / 64  # every part is translated to something
    assert [json.loads(line)["translation"].encode() for line in (before, after)] == lines(
        translated("--quiet", "--beam-size=1", given=b"Hund\nKatze\n")
    )


PEAK = """
import resource, sys
from nmt_rela.commands.translate import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_memory_does_not_grow_with_the_stream(run: Path, tmp_path: Path, form: str) -> None:
    """A hundred thousand lines take the memory of twenty thousand, when windows have long reached their size: neither
    lines, nor freed blocks, nor products compiled for the shapes of batches pile up.
    """
    words = sentences(1000, seed=2, longest=2)
    peaks = []
    for count in (20_000, 100_000):
        path = tmp_path / "input"
        path.write_text("".join(f"{words[i % 1000]}\n" for i in range(count)), encoding="utf-8")
        with open(path, "rb") as stream, open(tmp_path / "output", "wb") as output:
            done = subprocess.run(
                [sys.executable, "-c", PEAK, "--quiet", f"--model={run}", "--device=cpu", "--beam-size=1",
                 f"--format={form}", "decoding.max_length_offset=0", "decoding.batch_tokens=4000"],
                stdin=stream, stdout=output, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "output").read_bytes().count(b"\n") == count
        peaks.append(int(done.stderr.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 16, f"MiB: {peaks}"
