"""Statistics of cleaning: how many pairs were read, kept, repaired and dropped, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Reasons for dropping a pair, in the order of the checks. Sub-word lengths are checked after all others.
DROP_REASONS = ("fields", "undecodable", "empty", "overlength", "copy", "ratio", "duplicate")
#: The end of a message about pairs that were dropped as undecodable.
ENCODING_HINT = "; accepted: UTF-8 (try: iconv -f ISO-8859-1, or what it is, -t UTF-8)"
#: Repairs of kept pairs. A pair is counted under one of them.
REPAIRS = ("control characters", "separators", "entities", "invisible characters", "decomposed letters")


@dataclass(slots=True)
class CleaningStats:
    """The counts of one parallel source. ``read`` equals ``kept`` plus all dropped pairs."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def drop(self, reason: str, pairs: int = 1) -> None:
        """Count pairs as dropped. They must have been counted as read."""
        if pairs:
            self.dropped[reason] += pairs

    def as_dict(self) -> dict[str, Any]:
        """Plain values; reasons in a fixed order, zeros omitted. ValueError for a reason that is not in the order."""
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": {reason: self.dropped[reason] for reason in sorted(self.dropped, key=DROP_REASONS.index)},
            "repaired": {reason: self.repaired[reason] for reason in sorted(self.repaired, key=REPAIRS.index)},
            "truncated": self.truncated,
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> CleaningStats:
        """The inverse of ``as_dict``."""
        return cls(tree["read"], tree["kept"], Counter(tree["dropped"]), Counter(tree["repaired"]), tree["truncated"])

    @classmethod
    def sum(cls, stats: Iterable[CleaningStats]) -> CleaningStats:
        """The sum of several parallel sources."""
        total = cls()
        for counts in stats:
            total.read += counts.read
            total.kept += counts.kept
            total.dropped += counts.dropped
            total.repaired += counts.repaired
            total.truncated += counts.truncated
        return total


def write_stats(path: Path, stats: Mapping[str, CleaningStats]) -> None:
    """Write the statistics of parallel sources, in their order, as JSON."""
    path.write_text(json.dumps({name: counts.as_dict() for name, counts in stats.items()}, indent=1), "utf-8")


def read_stats(path: Path) -> dict[str, CleaningStats]:
    """The inverse of ``write_stats``."""
    return {name: CleaningStats.from_dict(tree) for name, tree in json.loads(path.read_bytes()).items()}


def format_stats(counts: Mapping[str, Any]) -> Iterator[str]:
    """The ``counts`` of `PreparedData` as lines to print."""
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
        if counts["overlap"]:
            overlap = ", ".join(f"{name} {pairs:,}" for name, pairs in counts["overlap"].items())
            yield f"pairs of these sets that also stand in the training text: {overlap}"
        sizes = counts["vocabulary"]
        is_smaller = min(sizes.values()) < sizes["requested"]
        requested = f" (data.vocabulary_size: {sizes['requested']:,})" if is_smaller else ""
        yield f"vocabulary: {sizes['source']:,} and {sizes['target']:,} sub-words{requested}"
