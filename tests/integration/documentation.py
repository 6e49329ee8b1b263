"""The code blocks of a Markdown page, and a place where they can be executed at smoke scale.

What becomes of a block is written above it, where readers do not see it:

    <!-- run -->                  executed, in the order of the page
    <!-- file: mine.yaml -->      written to a file; a configuration is made small
    <!-- parsed: REASON -->       commands must exist with the options and settings shown, Python must compile; not run
    <!-- text -->                 something to read: output, a layout, a formula

A block without a mark is parsed.
"""

from __future__ import annotations

import functools
import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from nmt_rela.config.builder import key_paths
from nmt_rela.config.schema import Config

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "scripts/benchmarks/RESULTS.md"
CONFIGS = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml"))
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), RESULTS]

#: What makes any configuration a matter of seconds.
SMALL: dict[str, dict[str, Any]] = {
    "data": {"max_pairs_per_source": 300, "vocabulary_size": 300},
    "model": {"encoder_layers": 1, "decoder_layers": 2, "d_model": 16, "ffn_dim": 16, "num_heads": 4},
    "training": {
        "max_updates": 10, "update_tokens": 256, "warmup_updates": 5, "log_every": 5,
        "validate_every": 5, "validation_decode_sentences": 2, "save_every": 2,
    },
    "decoding": {"max_length_offset": 0},
}  # fmt: skip
_KEPT = {"attention"}


@dataclass(frozen=True, slots=True)
class Block:
    """One code block: its page and line, language (empty where it is only indented), mark and text."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page, fenced and indented, in order."""
    found, lines = [], page.read_text(encoding="utf-8").split("\n")
    name = page.relative_to(REPOSITORY).as_posix()
    place, mark = 0, ""
    while place < len(lines):
        line = lines[place]
        start = place
        if fence := re.fullmatch(r"```(\w*)", line):
            end = lines.index("```", place + 1)
            found.append(Block(name, start + 1, fence[1], mark, "\n".join(lines[place + 1 : end]) + "\n"))
            place, mark = end, ""
        elif line.startswith("    ") and (place == 0 or not lines[place - 1].strip() or mark):
            end = place
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(each.removeprefix("    ") for each in lines[place:end]).strip("\n") + "\n"
            found.append(Block(name, start + 1, "", mark, text))
            place, mark = end - 1, ""
        elif comment := re.fullmatch(r"<!-- (run|text|file: \S+|parsed: .+) -->", line):
            mark = comment[1]
        elif line.strip():
            mark = ""
        place += 1
    return found


def commands_in(block: Block) -> Iterator[list[str]]:
    """The words of every command of ours in a block of shell lines."""
    text = block.text.replace("\\\n", " ")
    text = re.sub(r"\b(srun )?torchrun\b.* -m nmt_rela\.commands\.", "nmt-", text)
    for line in text.split("\n"):
        for part in re.split(r"[|;]|&&", line.split(" #")[0].split("# ")[0]):
            try:
                words = shlex.split(re.split(r"\s[<>]", part)[0])
            except ValueError:  # prose, not a command
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*|exec|python|nice|time|\$", words[0]):
                words.pop(0)
            if words and re.fullmatch(r"(\.venv/bin/)?nmt-\w+|make|scripts/(\w+/)?\w+\.py", words[0]):
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def check_command(words: list[str]) -> None:
    """The program exists, and takes the options and settings that are shown."""
    program, arguments = words[0], words[1:]
    shown = shlex.join(words)
    if program == "make":
        makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
        for word in arguments:
            if "=" in word:
                assert re.search(rf"\b{word.split('=')[0]}\b", makefile), f"{shown}: no such variable"
            else:
                assert re.search(rf"^{re.escape(word)}:", makefile, flags=re.MULTILINE), f"{shown}: no such target"
        return
    text = help_of(program)
    for word in arguments:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word.split('=')[0])}\b", text), f"{shown}: no option {word}"
        elif setting := re.fullmatch(r"([a-z_.]+)=.*", word):
            assert setting[1] in set(key_paths(Config)), f"{shown}: no setting {setting[1]}"
    if "--config" in arguments and not (name := arguments[arguments.index("--config") + 1]).endswith(".yaml"):
        assert name in (*CONFIGS, "FILE", "C"), f"{shown}: no such configuration"


@functools.cache
def help_of(program: str) -> str:
    """What ``--help`` says."""
    line = [sys.executable, str(REPOSITORY / program), "--help"]
    if program.startswith("nmt-"):
        module = "import_model" if program == "nmt-import" else program.removeprefix("nmt-")
        line = [sys.executable, "-m", f"nmt_rela.commands.{module}", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{program} --help: {done.stderr}"
    return done.stdout


class Sandbox:
    """A folder like that of a reader: small configurations, a little text of his own, a trained ``runs/demo``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for file in (REPOSITORY / "data" / "demo").iterdir():
            with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
                lines = list(islice(stream, {"train": 300, "dev": 5, "test": 8}[file.name.split(".")[0]]))
            (folder / file.name.removesuffix(".gz")).write_bytes(b"".join(lines))
            if file.name.startswith("train"):  # text that is not yet split
                (folder / file.name.removesuffix(".gz").replace("train", "text")).write_bytes(b"".join(lines))
        (folder / "configs").mkdir()
        for path in (REPOSITORY / "configs").glob("*.yaml"):
            self.write(f"configs/{path.name}", path.read_text(encoding="utf-8"))
        (folder / "scripts").symlink_to(REPOSITORY / "scripts")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "NMT_RELA_MIRROR": ""}

    def train_demo(self) -> None:
        """The run that pages take for granted."""
        self.shell("nmt-train --quiet --config demo && nmt-average --quiet --model runs/demo --last 5")

    def copy(self, folder: Path) -> Sandbox:
        """Another sandbox that holds the same."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = object.__new__(Sandbox)
        other.folder, other._environment = folder, self._environment
        return other

    def write(self, name: str, text: str) -> None:
        """A file of the page. Configurations, which extend another one or are the base, are made small."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".yaml") and ("extends:" in text or path.name == "base.yaml"):
            tree = yaml.safe_load(re.sub(r"(?<=\d)_(?=\d)", "", text))
            for section, settings in SMALL.items():
                tree[section] = {**(tree.get(section) or {}), **settings}
            text = yaml.safe_dump(tree)
        path.write_text(text, encoding="utf-8")

    def shell(self, commands: str) -> str:
        """Run shell lines, which must succeed; their output. Names of shipped configurations mean the small ones."""
        commands = re.sub(rf"(--config )({'|'.join(CONFIGS)})(?=\s|$)", r"\1configs/\2.yaml", commands)
        line = ["bash", "-euo", "pipefail", "-c", commands]
        done = subprocess.run(
            line, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def execute(self, block: Block) -> None:
        """Do with a block what its mark says."""
        if block.mark.startswith("file: "):
            self.write(block.mark.removeprefix("file: "), block.text)
        elif block.mark == "run" and block.language == "python":
            self.write("program.py", block.text)
            self.shell("python program.py")
        elif block.mark == "run":
            self.shell(block.text)
