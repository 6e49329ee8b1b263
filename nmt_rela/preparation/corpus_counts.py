"""The counts of a prepared corpus: of its sources, sets and vocabulary, and warnings of what is unusual."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.cleaning_stats import ENCODING_HINT, CleaningStats, read_stats
from nmt_rela.preparation.tokenizer_training import suitable_size

LOG = logging.getLogger(__name__)

#: A source that loses a larger fraction of its pairs in cleaning, duplicates aside, is warned of.
_MUCH_LOST = 0.1
#: A vocabulary of more than this many times the suitable size is warned of.
_MANY_SUBWORDS = 4


def count_corpus(stages: Mapping[str, Path], data: DataConfig) -> dict[str, Any]:
    """The ``counts`` of `PreparedData`, from the directories of the stages by name."""
    stats = read_stats(stages["train"] / "cleaning_stats.json")
    lines = json.loads((stages["sets"] / "lines.json").read_bytes())
    overlap = json.loads((stages["overlap"] / "overlap.json").read_bytes())
    tokenizers = TokenizerPair.load(stages["tokenizers"])
    return {
        "sources": {name: counts.as_dict() for name, counts in stats.items()},
        "total": CleaningStats.sum(stats.values()).as_dict(),
        "dev": lines["dev"],
        "tests": {name.removeprefix("test-"): count for name, count in lines.items() if name != "dev"},
        "overlap": {name.removeprefix("test-"): count for name, count in overlap.items() if count},
        "vocabulary": {
            "source": tokenizers.source.size,
            "target": tokenizers.target.size,
            "requested": 0 if data.vocabulary or data.vocabulary_size == "auto" else data.vocabulary_size,
        },
    }


def log_counts(counts: Mapping[str, Any]) -> None:
    """Log what cleaning has kept. Warn of sources that lost many pairs other than duplicates, and of seen sets."""
    LOG.info("training text: %s pairs read, %s kept", *(f"{counts['total'][key]:,}" for key in ("read", "kept")))
    for name, source in counts["sources"].items():
        lost = {reason: pairs for reason, pairs in source["dropped"].items() if reason != "duplicate"}
        if sum(lost.values()) > _MUCH_LOST * source["read"]:
            hint = ENCODING_HINT if "undecodable" in lost else ""
            LOG.warning(
                "source '%s': %.0f %% of %s pairs are dropped: %s (docs/data.md explains the reasons)%s",
                name, 100 * sum(lost.values()) / source["read"], f"{source['read']:,}",
                ", ".join(f"{reason} {pairs:,}" for reason, pairs in lost.items()), hint,
            )  # fmt: skip
    sizes = counts["vocabulary"]
    if (smaller := min(sizes["source"], sizes["target"])) < sizes["requested"]:
        LOG.warning("the corpus supports %d sub-words, not data.vocabulary_size=%d", smaller, sizes["requested"])
    if sizes["requested"] > _MANY_SUBWORDS * (suitable := suitable_size(counts["total"]["kept"])):
        LOG.warning(
            "data.vocabulary_size: %s sub-words are too many for %s training pairs to teach; 'auto' would be about %s",
            *(f"{number:,}" for number in (sizes["requested"], counts["total"]["kept"], suitable)),
        )
    for name, pairs in counts["overlap"].items():
        LOG.warning(
            "%s: %s of its %s pairs also stand in the training text, which raises its scores; none is dropped",
            *("development set" if name == "dev" else f"test set '{name}'", f"{pairs:,}"),
            f"{counts['dev'] if name == 'dev' else counts['tests'][name]:,}",
        )  # fmt: skip
