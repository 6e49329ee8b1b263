"""Files are translated in shards, and a killed translation goes on where it stopped: the text is the same."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toy_translator import sentences, toy_run

from nmt_rela.commands import translate
from nmt_rela.generation import file_translation
from nmt_rela.generation.file_translation import PartialOutput, plan_chunks, read_planned_chunks
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import file_lock
from nmt_rela.utils.text import read_lines

LINES = [*sentences(400, seed=2, longest=5), "", "ende ohne zeilenende"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("toy") / "run")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def arguments(run: Path, text: Path, output: Path, *more: str) -> list[str]:
    fast = ["--max-length-offset", "0", "--device", "cpu", "--quiet"]
    fast += [] if "--beam-size" in more else ["--beam-size", "2"]
    return ["--model", str(run), "--input", str(text), "--output", str(output), *fast, *more]


@pytest.fixture(scope="module")
def whole(run: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Candidates with scores: numbers and last digits must agree too."""
    output = tmp_path_factory.mktemp("whole") / "output"
    assert translate.main(arguments(run, text, output, "--n-best", "2")) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == ["output"]
    return output.read_bytes()


def test_chunks_are_all_lines_and_shards_are_all_chunks() -> None:
    for lines in (0, 1, 63, 64, 65, 5_000, 300_000):
        chunks = plan_chunks(lines)
        assert [line for chunk in chunks for line in chunk] == list(range(lines))
        for count in (1, 3, 8, 64):
            assert [chunk for i in range(count) for chunk in plan_chunks(lines, shard=(i + 1, count))] == chunks
    sizes = [sum(map(len, plan_chunks(300_000, shard=(i, 8)))) for i in range(1, 9)]
    assert max(sizes) - min(sizes) <= 2 * 4096


def test_shards_in_order_are_the_whole_whatever_the_processes(
    run: Path, text: Path, whole: bytes, tmp_path: Path
) -> None:
    parts = []
    for index in range(1, 4):
        output, more = tmp_path / f"{index}.gz", ["--workers", "2"] if index == 2 else []
        assert translate.main(arguments(run, text, output, "--n-best", "2", "--shard", f"{index}/3", *more)) == 0
        parts.append(output.read_bytes())
    assert gzip.decompress(b"".join(parts)) == whole


def killed(command: list[str], record: Path, *, chunks: int) -> None:
    """Run the command in a process and kill it when ``chunks`` more are recorded."""
    before = json.loads(record.read_bytes())["chunks"] if record.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-m", "nmt_rela.commands.translate", *command], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    end = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < end:
        if record.exists() and json.loads(record.read_bytes())["chunks"] >= before + chunks:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"


def test_a_killed_translation_repeats_and_loses_no_line(run: Path, text: Path, whole: bytes, tmp_path: Path) -> None:
    output, record = tmp_path / "output", tmp_path / "output.partial.json"
    command = arguments(run, text, output, "--n-best", "2")
    killed(command, record, chunks=3)
    assert not output.exists()
    done = json.loads(record.read_bytes())["bytes"]
    partial = tmp_path / "output.partial"
    partial.write_bytes(partial.read_bytes()[:done] + b"half a ch")  # killed within a chunk
    assert translate.main([*command, "--threads", "1"]) == 0
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


def test_other_settings_or_another_process_do_not_continue_it(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, prefixes = tmp_path / "output", tmp_path / "prefixes"
    prefixes.write_text("\n" * len(LINES), encoding="utf-8")
    command = arguments(run, text, output, "--prefixes", str(prefixes))
    killed(command, tmp_path / "output.partial.json", chunks=1)
    before = (tmp_path / "output.partial").read_bytes()
    assert translate.main([*command, "--length-penalty", "0.1"]) == 2
    assert "was begun with decoding.length_penalty 0.6, now 0.1; set it back, or remove" in capsys.readouterr().err
    lock = file_lock(tmp_path / ".output.lock")
    assert translate.main(command) == 2
    assert "another process is writing it" in capsys.readouterr().err
    lock.release()
    prefixes.write_text("die" + "\n" * len(LINES), encoding="utf-8")
    assert translate.main(command) == 2
    assert "was begun with --prefixes " in capsys.readouterr().err
    assert (tmp_path / "output.partial").read_bytes() == before


def test_a_kill_just_after_the_end_does_not_spoil_the_next_output(tmp_path: Path) -> None:
    (tmp_path / "output.partial.json").write_text('{"settings": {}, "chunks": 3, "bytes": 300}')
    with pytest.raises(KeyboardInterrupt), PartialOutput(tmp_path / "output", {}) as output:
        found = sorted(path.name for path in tmp_path.glob("output*"))
        assert output.chunks == 0
        raise KeyboardInterrupt
    assert found == ["output.partial"]


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere" / "text")
    with PartialOutput(tmp_path / "output", {}) as output:
        output.append(["a line"])
    assert (tmp_path / "output").is_symlink()
    assert (tmp_path / "elsewhere" / "text").read_text() == "a line\n"


def test_an_output_that_is_shorter_than_its_record_is_refused(tmp_path: Path) -> None:
    """After a power cut, or half a copy: bytes of zero would stand for the lines that are gone."""
    with pytest.raises(KeyboardInterrupt), PartialOutput(tmp_path / "output", {}) as output:
        output.append(["a line"])
        raise KeyboardInterrupt
    (tmp_path / "output.partial").write_bytes(b"a l")
    with pytest.raises(DataError, match=r"output\.partial\.json: damaged; remove it and output\.partial to start"):
        PartialOutput(tmp_path / "output", {}).__enter__()
    assert (tmp_path / "output.partial").read_bytes() == b"a l"


def test_an_input_that_loses_lines_meanwhile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\n" * 70, encoding="utf-8")
    with pytest.raises(DataError, match=r"text: has lost lines since they were counted"):
        list(read_planned_chunks(tmp_path / "text", plan_chunks(71), prefixes=None))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "GZ"])
def test_an_empty_shard_is_a_compressed_file_too(suffix: str, tmp_path: Path) -> None:
    with PartialOutput(tmp_path / f"output.{suffix}", {}):
        pass
    assert (tmp_path / f"output.{suffix}").stat().st_size
    assert list(read_lines(tmp_path / f"output.{suffix}")) == []


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, *, wait: bool) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(file_translation, "file_lock", refuse)
    with PartialOutput(tmp_path / "output", {}) as output:
        output.append(["a line"])
    assert "cannot be locked (no flock here); no other process may write" in caplog.text
    assert (tmp_path / "output").read_text("utf-8") == "a line\n"


def test_prefixes_may_come_from_a_pipe_and_a_stream_is_compressed(run: Path, tmp_path: Path) -> None:
    pipe, text = tmp_path / "pipe", tmp_path / "text"
    os.mkfifo(pipe)
    text.write_text("der Hund\ndie Katze\n", encoding="utf-8")
    writer = threading.Thread(target=lambda: pipe.write_text("die\ndas\n", encoding="utf-8"))
    writer.start()
    assert translate.main(arguments(run, text, tmp_path / "output.gz", "--prefixes", str(pipe))) == 0
    writer.join()
    assert (tmp_path / "output.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert [line[:3] for line in read_lines(tmp_path / "output.gz")] == ["die", "das"]


@pytest.mark.parametrize("name", ["output.zst", "output.ZIP", "output.de.lz4"])
def test_a_compression_that_is_not_written_is_refused_before_translating(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert translate.main(arguments(run, text, tmp_path / name)) == 2
    assert f"{name}'; accepted: .gz, .bz2, .xz, or a name of uncompressed text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard", ["9/8", "0/8", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_does_not_exist_is_refused(
    run: Path, text: Path, tmp_path: Path, shard: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate.main(arguments(run, text, tmp_path / "output", f"--shard={shard}")) == 2
    assert f"--shard: found '{shard}'; accepted: I/N, with I from 1 to N, such as 2/8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_hundred_thousand_lines_killed_twenty_times(run: Path, tmp_path: Path) -> None:
    text, random_ = tmp_path / "text", random.Random(7)
    text.write_text("".join(f"{line}\n" for line in sentences(2_000, seed=9, longest=3) * 100), encoding="utf-8")
    greedy = ["--beam-size", "1", "--scores"]
    straight, output = tmp_path / "straight", tmp_path / "output"
    assert translate.main(arguments(run, text, straight, *greedy)) == 0
    record = tmp_path / "output.partial.json"
    for _ in range(20):
        killed(arguments(run, text, output, *greedy), record, chunks=random_.randint(1, 3))
    assert translate.main(arguments(run, text, output, *greedy)) == 0
    assert output.read_bytes() == straight.read_bytes()
    for index in range(1, 9):
        assert translate.main(arguments(run, text, tmp_path / str(index), *greedy, "--shard", f"{index}/8")) == 0
    assert b"".join((tmp_path / str(index)).read_bytes() for index in range(1, 9)) == straight.read_bytes()
