"""Preparation may be killed anywhere: the next run gives the same bytes as one that was never disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

#: Runs in a process of its own: forks a child for every point at which it is killed, then one that is not disturbed.
DRIVER = textwrap.dedent(
    """
    import itertools, os, shutil, signal, sys
    from pathlib import Path
    from nmt_rela.config.schema import DataConfig
    from nmt_rela.preparation import stages
    from nmt_rela.preparation import cleaning
    from nmt_rela.preparation import binarize
    from nmt_rela.preparation import pipeline as module
    from nmt_rela.preparation.pipeline import prepare

    root = Path(sys.argv[1])
    data = dict(task=str(root / "mine.yaml"), source_language="de", target_language="en", vocabulary_size=90)

    def tree(directory):
        return {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in directory.rglob("*") if path.is_file() and not path.name.endswith("lock")
        }

    def kill_at(count, module, name):
        original, calls = getattr(module, name), itertools.count(1)
        def counting(*args, **kwargs):
            if next(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)
        setattr(module, name, counting)

    def run(directory, *kill):
        child = os.fork()
        if child == 0:
            if kill:
                kill_at(*kill)
            prepare(DataConfig(data_dir=str(directory), **data))
            os._exit(0)
        return os.waitpid(child, 0)[1]

    assert run(root / "whole") == 0
    expected = tree(root / "whole")
    killed = 0
    points = [(stages, "write_lines"), (cleaning, "blake2b"), (stages, "write_stats"),
              (stages, "train_sentencepiece"), (binarize, "encode_block"), (os, "replace"), (os, "fsync")]
    for module, name in points:
        for count in itertools.count(1, 2 if name == "replace" else 9 if name == "fsync" else 100):
            shutil.rmtree(root / "out", ignore_errors=True)
            if not os.WIFSIGNALED(run(root / "out", count, module, name)):
                break
            killed += 1
            assert run(root / "out") == 0, (name, count)
            assert tree(root / "out") == expected, (name, count)
    # Killed again and again, without being cleaned up in between.
    shutil.rmtree(root / "out", ignore_errors=True)
    for count in range(1, 10):
        if not os.WIFSIGNALED(run(root / "out", 6, os, "replace")):
            break
    assert 2 < count < 9, count
    assert tree(root / "out") == expected
    print(killed)
    """
)


def own_task(directory: Path, pairs: int) -> None:
    for name, count in (("train", pairs), ("dev", 4), ("test", 3)):
        lines = [
            f"{name} satz nummer {number} von {number % 7} {'wort ' * (number % 5)}".strip() for number in range(count)
        ]
        (directory / f"{name}.de").write_text("".join(f"{line}\n" for line in lines))
        (directory / f"{name}.en").write_text("".join(f"{line.upper()}\n" for line in lines))
    splits = ((split, name) for split, name in (("train", "train"), ("dev", "dev"), ("tests", "test")))
    entries = [f"{split}: [{{name: {name}, files: {{de: {name}.de, en: {name}.en}}}}]\n" for split, name in splits]
    (directory / "mine.yaml").write_text("languages: [de, en]\n" + "".join(entries))


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def test_killed_anywhere_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    own_task(tmp_path, 60)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 12


PREPARE = textwrap.dedent(
    """
    import sys
    from nmt_rela.config.schema import DataConfig
    from nmt_rela.preparation.pipeline import prepare
    if __name__ == "__main__":
        root, workers = sys.argv[1], int(sys.argv[2])
        data = DataConfig(task=f"{root}/mine.yaml", source_language="de", target_language="en", data_dir=f"{root}/out",
                          vocabulary_size=90, tokenizer_sample_size=500)
        print(prepare(data, workers=workers).counts["total"]["kept"])
    """
)


def start(directory: Path, *, workers: int) -> subprocess.Popen[str]:
    (directory / "run.py").write_text(PREPARE)
    command = [sys.executable, str(directory / "run.py"), str(directory), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def test_a_kill_while_threads_encode_changes_nothing(tmp_path: Path) -> None:
    own_task(tmp_path, 51_000)
    process = start(tmp_path, workers=3)
    deadline = time.monotonic() + 300
    pattern = "out/mine-de-en/train-*.partial/corpus.partial/source.tokens"
    while not any(tmp_path.glob(pattern)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("out/mine-de-en/train-*/stage.json"))
    made = []
    for count in (3, 1):
        out, err = start(tmp_path, workers=count).communicate()
        assert out == "51000\n", err
        (corpus,) = (tmp_path / "out/mine-de-en").glob("train-*/corpus")
        made.append({path.name: path.read_bytes() for path in corpus.iterdir()})
        (corpus.parent / "stage.json").unlink()
    assert made[0] == made[1], "the number of threads is not seen in the result"


def test_two_at_once_do_the_work_once(tmp_path: Path) -> None:
    own_task(tmp_path, 20_000)
    both = [start(tmp_path, workers=1) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert out == "20000\n", err
    assert len(list((tmp_path / "out/mine-de-en").iterdir())) == 8, "six stages, the summary and the lock"


def test_a_full_disk_leaves_no_partial_stage(tmp_path: Path) -> None:
    own_task(tmp_path, 3000)
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n{PREPARE}"
    (tmp_path / "limited.py").write_text(limited)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "limited.py"), str(tmp_path), "1"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert not list(tmp_path.rglob("*.partial"))
    out, err = start(tmp_path, workers=1).communicate()
    assert out == "3000\n", err
