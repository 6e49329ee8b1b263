"""The account of a corpus: what was read, kept, repaired and dropped, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Why a pair is dropped, in the order of the tests. Over-long pairs are also found after the split into sub-words.
DROP_REASONS = ("undecodable", "empty", "overlong", "copy", "ratio", "duplicate")
#: What is put right in a pair that stays; a pair is counted under one of them.
REPAIRS = ("control characters", "separators", "entities")


@dataclass(slots=True)
class CleaningStats:
    """What became of the pairs of one source. ``read`` equals ``kept`` plus all that were dropped."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def drop(self, reason: str, pairs: int = 1) -> None:
        """Count pairs, which were counted as read, as dropped."""
        if pairs:
            self.dropped[reason] += pairs

    def as_dict(self) -> dict[str, Any]:
        """Plain values, reasons in their usual order, zeros left out."""
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": {reason: self.dropped[reason] for reason in DROP_REASONS if self.dropped[reason]},
            "repaired": {reason: self.repaired[reason] for reason in REPAIRS if self.repaired[reason]},
            "truncated": self.truncated,
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> CleaningStats:
        """The inverse of ``as_dict``."""
        return cls(tree["read"], tree["kept"], Counter(tree["dropped"]), Counter(tree["repaired"]), tree["truncated"])

    @classmethod
    def sum(cls, accounts: Iterable[CleaningStats]) -> CleaningStats:
        """One account of several sources."""
        total = cls()
        for account in accounts:
            total.read += account.read
            total.kept += account.kept
            total.dropped += account.dropped
            total.repaired += account.repaired
            total.truncated += account.truncated
        return total


def write_stats(path: Path, accounts: Mapping[str, CleaningStats]) -> None:
    """Write the accounts of sources, in their order, as JSON."""
    path.write_text(json.dumps({name: account.as_dict() for name, account in accounts.items()}, indent=1), "utf-8")


def read_stats(path: Path) -> dict[str, CleaningStats]:
    """The inverse of ``write_stats``."""
    return {name: CleaningStats.from_dict(tree) for name, tree in json.loads(path.read_bytes()).items()}


def format_stats(counts: Mapping[str, Any]) -> Iterator[str]:
    """The ``counts`` of prepared data as lines to print."""
    rows = {**counts["sources"], **({"total": counts["total"]} if "total" in counts else {})}
    width = max(map(len, rows))
    for name, row in rows.items():
        details = [f"{reason} {number:,}" for reason, number in row["dropped"].items()]
        text = f"{name:<{width}}  {row['read']:>11,} pairs, {row['kept']:>11,} kept"
        text += f"; dropped: {', '.join(details)}" if details else ""
        if row["repaired"]:
            text += f"; repaired: {', '.join(f'{reason} {number:,}' for reason, number in row['repaired'].items())}"
        yield text + (f"; truncated: {row['truncated']:,}" if row["truncated"] else "")
    if "dev" in counts:
        tests = ", ".join(f"{name} {lines:,}" for name, lines in counts["tests"].items())
        yield f"development set: {counts['dev']:,} lines; test sets: {tests}"
        yield f"vocabulary: {counts['vocabulary']['source']:,} and {counts['vocabulary']['target']:,} sub-words"
