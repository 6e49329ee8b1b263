"""What a caller in Python passes: lines and run directories, checked before they are used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from nmt_rela.utils.errors import CheckpointError, DataError


def check_lines(lines: Iterable[str], name: str) -> Iterator[str]:
    """The lines of an argument. Raises DataError for what holds no lines, and at the first line that is no text."""
    if isinstance(lines, (str, bytes)) or not isinstance(lines, Iterable):
        raise DataError(
            f"{name}: found one {type(lines).__name__}; accepted: a list (or other iterable) of lines, ['A line.']"
        )

    def check() -> Iterator[str]:
        for number, line in enumerate(lines):
            if not isinstance(line, str) or (not line.isascii() and line.encode(errors="ignore").decode() != line):
                raise DataError(f"{name}[{number}]: found {line!a:.60}; accepted: text (str) without surrogates")
            yield line

    return check()


def read_paths(runs: str | Path | Iterable[str | Path]) -> list[str | Path]:
    """The run directories of an argument, one at least and each once."""
    paths = [runs] if isinstance(runs, (str, PathLike)) else list(runs) if isinstance(runs, Iterable) else []
    if not paths or not all(isinstance(path, (str, PathLike)) and str(path) for path in paths):
        raise CheckpointError(f"runs: found {runs!r:.60}; accepted: the path of a run directory, or a list of them")
    seen: set[Path] = set()
    for path in paths:
        if (resolved := Path(os.path.expanduser(path)).resolve()) in seen:
            raise CheckpointError(f"{path}: found more than once; accepted: an ensemble of different runs")
        seen.add(resolved)
    return paths
