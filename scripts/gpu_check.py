#!/usr/bin/env python3
"""What only a GPU shows, in one command: are the kernels right, do models learn as on a CPU, how fast is everything.

    python3 scripts/gpu_check.py --seconds 530 --output gpu-check [--data MIRROR]

The stages run in the order of their worth, each with a time limit and as a process group of its own. One that fails or
takes too long is recorded, and the others go on. Trainings run beside the tests, and nothing runs beside a measurement.

OUTPUT/gpu_check.json has every stage with its status and result and is written anew after each. OUTPUT/gpu_check.log
has all that was printed. scripts/tools/gpu_tables.py makes the tables of docs/performance.md from the JSON file.

No network is needed. The Python that runs this script runs the stages. Multi30k is trained if --data or NMT_RELA_MIRROR
names a mirror that holds it (docs/data.md). The exit status is 1 unless all stages have passed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

REPOSITORY = Path(__file__).resolve().parents[1]
VARIANTS = ("softmax", "sparsemax", "entmax15", "rela-i", "rela-g")
MULTI30K = "raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/train.en.gz"
#: No stage is begun when fewer seconds are left.
SHORTEST = 5.0
#: Characters of its output that the report of a stage that has not passed has, and that the log has of any.
TAIL, LOGGED = 3_000, 200_000


@dataclass(frozen=True)
class Stage:
    """A Python command, relative to the repository, with a limit in seconds."""

    name: str
    command: list[str]
    limit: float
    #: Whether the command takes ``--json FILE``; the content of the file is then the result of the stage.
    writes_json: bool = True


@dataclass
class Process:
    """A stage that is running."""

    stage: Stage
    popen: subprocess.Popen[bytes]
    #: Its output, and its result where it writes one.
    output: Path
    document: Path
    start: float = field(default_factory=time.monotonic)

    def is_late(self, deadline: float) -> bool:
        return time.monotonic() > min(self.start + self.stage.limit, deadline)

    def kill(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(10)  # one that hangs in a driver does not end


class Report:
    """The report of all stages, on disk after every change."""

    def __init__(self, folder: Path, stages: Sequence[Stage], head: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self._log, self._start = folder / "gpu_check.json", folder / "gpu_check.log", time.monotonic()
        self.entries = {stage.name: {"status": "not run", "limit": stage.limit} for stage in stages}
        self._head = {"date": time.strftime("%Y-%m-%d"), **head}
        self._log.write_text("", encoding="utf-8")
        self._write()

    def add(self, process: Process, status: str) -> None:
        """Record a stage that has ended."""
        stage, seconds = process.stage, round(time.monotonic() - process.start, 1)
        try:
            result = json.loads(process.document.read_bytes())
        except (OSError, ValueError):
            result = None
        entry: dict[str, Any] = {
            "status": status,
            "exit_status": process.popen.returncode,
            "seconds": seconds,
            "limit": stage.limit,
            "command": shlex.join(["python3", *stage.command]),
            "result": result,
        }
        text = process.output.read_text(encoding="utf-8", errors="replace")
        if status != "passed":
            entry["output"] = text[-TAIL:]
        self.entries[stage.name] = entry
        with open(self._log, "a", encoding="utf-8") as log:
            log.write(f"\n===== {stage.name}: {status}, {seconds} s\n{text[-LOGGED:]}")
        print(f"{stage.name:<26}{status:<12}{seconds:>7.1f} s", flush=True)
        self._write()

    def passed(self) -> bool:
        """Whether all stages have passed."""
        return all(entry["status"] == "passed" for entry in self.entries.values())

    def _write(self) -> None:
        seconds = round(time.monotonic() - self._start, 1)
        text = json.dumps({**self._head, "seconds": seconds, "stages": self.entries}, indent=1, ensure_ascii=False)
        for path, name in ((REPOSITORY, "."), (Path.home(), "~")):  # where this machine has them says nothing
            text = text.replace(f"{path}/", f"{name}/") if path != Path("/") else text
        partial = self.file.with_name(".gpu_check.json.partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(self.file)


def run_stages(groups: Sequence[Sequence[Stage]], report: Report, *, deadline: float) -> None:
    """Run the groups one after another, the stages of each at the same time, and report each stage when it ends.

    ``deadline`` is in seconds of the monotonic clock. A group that would begin when it has nearly passed is not run.
    """
    running: list[Process] = []
    with tempfile.TemporaryDirectory() as name:
        try:
            for group in groups:
                if time.monotonic() < deadline - SHORTEST:
                    running += [_start(stage, Path(name)) for stage in group]
                while running:
                    time.sleep(0.05)
                    for process in list(running):
                        status = _status(process, deadline)
                        if status:
                            process.kill()  # what it has left behind, too
                            running.remove(process)
                            report.add(process, status)
        finally:
            for process in running:
                process.kill()


def _start(stage: Stage, folder: Path) -> Process:
    base = stage.name.replace(" ", "-").replace("/", "-")
    output, document = folder / f"{base}.log", folder / f"{base}.json"
    command = [sys.executable, *stage.command, *(["--json", str(document)] if stage.writes_json else [])]
    path = [str(REPOSITORY), str(REPOSITORY / "scripts/benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("OMP_NUM_THREADS", "2")
    stream: TextIO
    with open(output, "w", encoding="utf-8") as stream:
        popen = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Process(stage, popen, output, document)


def _status(process: Process, deadline: float) -> str:
    """passed, failed, timed out, or "" while the stage runs."""
    if (status := process.popen.poll()) is not None:
        return "failed" if status else "passed"
    return "timed out" if process.is_late(deadline) else ""


# --- the stages ------------------------------------------------------------------------------------------------------

#: ``--tiny``: the same commands in seconds on a CPU.
TINY_MODEL = [
    "model.encoder_layers=1", "model.decoder_layers=1", "model.d_model=16", "model.ffn_dim=16", "model.num_heads=2"
]  # fmt: skip
TINY_TRAINING = [
    *TINY_MODEL, "data.vocabulary_size=300", "data.max_pairs_per_source=300", "training.max_updates=5",
    "training.update_tokens=256", "training.validate_every=5", "training.save_every=1",
    "training.validation_decode_sentences=2", "decoding.max_length_offset=0", "decoding.beam_size=1",
]  # fmt: skip
CORPUS = ["data.task=demo", "data.source_language=en", "data.target_language=de", "run_dir=unused"]


def plan(device: str, scratch: Path, *, tiny: bool, multi30k: bool) -> list[list[Stage]]:
    """The groups of stages, the most valuable first. Stages of one group run at the same time."""
    benchmarks, on_device = "scripts/benchmarks", ["--device", device]
    variants = VARIANTS[-1:] if tiny else VARIANTS

    def train(task: str, variant: str, limit: float, *settings: str) -> Stage:
        run = [f"run_dir={scratch}/{task}-{variant}", f"data.data_dir={scratch}/data", f"model.attention={variant}"]
        run += [f"training.device={device}", *settings, *(TINY_TRAINING if tiny else [])]
        config = {"demo": "configs/demo.yaml", "multi30k": "configs/multi30k-en-de.yaml"}[task]
        return Stage(f"{task} {variant}", [f"{benchmarks}/train_and_score.py", "--config", config, *run], limit)

    def test(name: str, limit: float, *arguments: str) -> Stage:
        common = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0" if tiny else "6", "--durations=5"]
        return Stage(name, [*common, *arguments], limit, writes_json=False)

    def speed(name: str, limit: float, options: list[str], *settings: str) -> Stage:
        settings = (*CORPUS, f"training.device={device}", *settings)
        settings += (*TINY_MODEL, "data.vocabulary_size=50", "training.update_tokens=256") if tiny else ()
        pairs = ["--random-pairs", "300" if tiny else "60000"]
        command = [f"{benchmarks}/bench_train.py", *settings, "--config", "configs/base.yaml", *pairs, *options]
        return Stage(name, command, limit)

    def attention(name: str, limit: float, *arguments: str) -> Stage:
        size = ["--lengths", "16", "--tokens", "32"] if tiny else ["--lengths", "1024", "2048", "4096", "8192"]
        return Stage(name, [f"{benchmarks}/bench_attention.py", *on_device, *size, "--rounds", "5", *arguments], limit)

    kernels = ["scripts/tools/check_kernels.py", *on_device]
    kernels += ["--attention", "rela-g", "--head-dim", "16", "--dtype", "float32"] if tiny else []
    base = {"layers": 6, "dimension": 512, "feed-forward": 2048, "heads": 8, "vocabulary": 32000, "sentences": 2000}
    small = {"layers": 1, "dimension": 16, "feed-forward": 16, "heads": 2, "vocabulary": 100, "sentences": 4}
    decode = [word for name, size in (small if tiny else base).items() for word in (f"--{name}", str(size))]
    decode += ["--length", "4", "--single", "1", "--attention", "rela-g"] if tiny else ["--length", "28"]
    decode += [] if tiny else ["--single", "10", "--precision", "bf16"]
    decode += ["--beams", "4", "--rounds", "2", "--batch-tokens", "16000", "128000", *on_device]
    kernel_tests = sorted(f"tests/unit/{path.name}" for path in REPOSITORY.glob("tests/unit/test_*kernel*.py"))
    kernel_tests += ["-k", "rows_sum_to_one"] if tiny else []
    return [
        [Stage("device", [f"{benchmarks}/bench_device.py", *on_device, *(["--small"] if tiny else [])], 60)],
        [
            Stage("kernels against reference", kernels, 240),
            test("tests of kernels", 240, *kernel_tests),
            test("tests of a GPU", 240, "tests/gpu"),
            *(train("demo", variant, 240) for variant in variants),
            *(
                train("multi30k", variant, 260, "training.max_updates=4800")
                for variant in variants
                if multi30k
            ),
        ],
        [speed("training speed", 130, ["--others", "--updates", "4", "--attention", *variants])],
        [attention("attention", 60)],
        [Stage("decoding speed", [f"{benchmarks}/bench_decode.py", *decode], 100)],
        [attention("attention, causal", 60, "--causal", "--dropout", "0.1")],
        [
            speed(
                "training speed, small", 60, ["--rounds", "3", "--updates", "3", "--attention", "softmax", "rela-g"],
                f"training.max_batch_tokens={64 if tiny else 12_500}",
            )
        ],
    ]  # fmt: skip


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=530.0, help="end within this time (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), help="folder (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="MIRROR", help="mirror with Multi30k (default: NMT_RELA_MIRROR)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="stages whose name has one of the words")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try this script on a CPU")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; the exit status."""
    options = parse_options(arguments)
    deadline = time.monotonic() + options.seconds
    if options.data is not None:
        os.environ["NMT_RELA_MIRROR"] = str(options.data.resolve())
    has_multi30k = (Path(os.environ.get("NMT_RELA_MIRROR") or "none") / MULTI30K).is_file()
    left_out = {} if has_multi30k else {"multi30k": "neither --data nor NMT_RELA_MIRROR has it"}
    signal.signal(signal.SIGTERM, _exit)
    with tempfile.TemporaryDirectory() as scratch:
        groups = plan(options.device, Path(scratch), tiny=options.tiny, multi30k=has_multi30k)
        groups = [list(_chosen(group, options.only)) for group in groups]
        head = {"device": options.device, "tiny": options.tiny, "only": options.only, "left_out": left_out}
        report = Report(options.output, [stage for group in groups for stage in group], head)
        run_stages(groups, report, deadline=deadline)
    print(f"written: {report.file}")
    return 0 if report.passed() else 1


def _chosen(stages: Sequence[Stage], words: Sequence[str]) -> Iterator[Stage]:
    for stage in stages:
        if not words or any(word in stage.name for word in words):
            yield stage


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # ends the stages, too


if __name__ == "__main__":
    sys.exit(main())
