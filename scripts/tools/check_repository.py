#!/usr/bin/env python3
"""Check the files of the repository: their size and length, machine paths, pins, licence, executable scripts.

Each fault is one line; the exit status is 1 if there is any. `make lint` calls it.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_BYTES = 500_000
#: Larger files, and their own limits.
LARGE = {"docs/live-demo.html": 2_000_000}
MAX_CODE_LINES = 450
MAX_README_LINES = 150
REQUIRED = ("LICENSE", "README.md", "CHANGELOG.md", "docs/STYLE.md")
EXECUTABLE = (".ci/run",)
#: The first two follow the choice of torch, which `make install TORCH=…` leaves to the user; the third is not installed
#: by it, and needs another NumPy.
UNPINNED = {"torch", "triton", "unbabel-comet"}


def repository_files(root: Path) -> list[Path]:
    """The files that git tracks or would track; outside a checkout, all files."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and (root / ".git").exists():
        return sorted(root / name for name in listed.stdout.split("\0") if name and (root / name).is_file())
    return sorted(path for path in root.rglob("*") if path.is_file())


def line_count(file: Path) -> int:
    """The number of lines of a text file."""
    return len(file.read_text(encoding="utf-8").splitlines())


def large_files(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Files above 500 kB, or above their own limit."""
    for file in files:
        limit = LARGE.get(file.relative_to(root).as_posix(), MAX_BYTES)
        if file.stat().st_size > limit:
            yield f"{file.relative_to(root)}: {file.stat().st_size:,} bytes; at most {limit:,}"


def long_files(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Modules of the package and a README that are too long."""
    for file in files:
        path = file.relative_to(root)
        if path.parts[0] == "nmt_rela" and path.suffix == ".py" and line_count(file) > MAX_CODE_LINES:
            yield f"{path}: {line_count(file)} lines; at most {MAX_CODE_LINES}: split it"
        if str(path) == "README.md" and line_count(file) > MAX_README_LINES:
            yield f"{path}: {line_count(file)} lines; at most {MAX_README_LINES}"


def machine_paths(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Files that hold an absolute path of one machine, such as a home directory."""
    paths = [f"/{name}/" for name in ("work", "root", "Users")] + [f"{root}/"]
    for file in files:
        content = file.read_bytes()
        for path in paths:
            place = content.find(path.encode())
            if place >= 0:
                line = content.count(b"\n", 0, place) + 1
                yield f"{file.relative_to(root)}:{line}: the path {path} of one machine"


def requirements(root: Path) -> Iterator[str]:
    """The names of all distributions that setup.cfg asks for, in lower case."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    blocks = [setup.get("options", "install_requires", fallback="")]
    if setup.has_section("options.extras_require"):
        blocks += [block for _, block in setup.items("options.extras_require")]
    for line in "\n".join(blocks).splitlines():
        if name := re.match(r"[\w.-]+", line.strip()):
            yield name[0].lower()


def unpinned(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Dependencies without a tested version in scripts/constraints.txt."""
    constraints = root / "scripts/constraints.txt"
    text = constraints.read_text(encoding="utf-8").lower() if constraints.is_file() else ""
    pinned = set(re.findall(r"^([\w.-]+)==", text, flags=re.MULTILINE))
    for name in sorted(set(requirements(root)) - UNPINNED - pinned):
        yield f"scripts/constraints.txt: {name} of setup.cfg is not pinned"


def missing_files(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Files that every checkout has, and scripts that must be executable."""
    for name in REQUIRED:
        if root / name not in files:
            yield f"{name}: missing"
    for name in EXECUTABLE:
        if not os.access(root / name, os.X_OK):
            yield f"{name}: missing or not executable"


CHECKS: tuple[Callable[[Path, Sequence[Path]], Iterator[str]], ...] = (
    large_files,
    long_files,
    machine_paths,
    unpinned,
    missing_files,
)


def faults(root: Path) -> list[str]:
    """All faults of the repository at ``root``."""
    files = repository_files(root)
    return [fault for check in CHECKS for fault in check(root, files)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=REPOSITORY, help="default: this repository")
    found = faults(parser.parse_args(arguments).root.resolve())
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
