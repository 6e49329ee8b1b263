"""N-best lists as Moses writes them: ``line ||| translation ||| score …``, lines counted from 0 and in order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from nmt_rela.generation.formatting import SEPARATOR
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import read_lines


@dataclass(frozen=True, slots=True)
class NBestEntry:
    """One candidate: the number of its source line, its text, and what follows (scores, an alignment)."""

    line: int
    text: str
    fields: tuple[str, ...]

    @property
    def scores(self) -> list[float]:
        """The fields that are numbers."""
        return [float(field) for field in self.fields if _is_number(field)]

    @property
    def mean_score(self) -> float:
        """The mean of the scores."""
        return sum(self.scores) / len(self.scores)

    def __str__(self) -> str:
        return SEPARATOR.join([str(self.line), self.text, *self.fields])


def read_n_best(path: Path, *, lines: int) -> Iterator[NBestEntry]:
    """The entries of a file, for a source text of ``lines`` lines.

    Raises DataError at the first line that is none, or has not as many scores as those before it.
    """
    last, scores = 0, None
    for number, line in enumerate(read_lines(path), start=1):
        head, *fields = [field.strip() for field in line.split(SEPARATOR.strip())]
        if not fields or not re.fullmatch("[0-9]{1,18}", head):
            raise DataError(f"{path}:{number}: found {line!r:.60}; accepted: line ||| translation ||| score …")
        if not last <= int(head) < lines:
            raise DataError(
                f"{path}:{number}: line {head} of the source; accepted: {last} to {lines - 1}, in order, from 0"
            )
        last = int(head)
        entry = NBestEntry(last, fields[0], tuple(fields[1:]))
        if len(entry.scores) != (scores := len(entry.scores) if scores is None else scores):
            raise DataError(f"{path}:{number}: {len(entry.scores)} scores; accepted: {scores}, as in the lines before")
        yield entry


def best_translations(entries: Iterable[NBestEntry], *, lines: int) -> Iterator[str]:
    """The entry of the highest mean score for each source line; "" for lines without entries."""
    expected = 0
    for line, candidates in groupby(entries, key=lambda entry: entry.line):
        yield from [""] * (line - expected)
        yield max(candidates, key=lambda entry: entry.mean_score).text
        expected = line + 1
    yield from [""] * (lines - expected)


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False
