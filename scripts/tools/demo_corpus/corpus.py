"""The demo corpus: a controlled English–German language with exact word alignments, made from one seed.

It has what makes translating into German interesting (verb-final clauses, verb-second inversion, separable verbs, the
perfect, case and gender agreement, pronouns with the gender of their noun), and it is a function: one English sentence
has one translation. Nothing is read from disk or from the network, and the text is the same on every machine.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from . import complex as complex_sentences
from . import sentences
from .meaning import Draw
from .phrases import links, written

SEED = 20211107
"""The seed of the files that :func:`write_demo_corpus` writes."""

TRAIN_PAIRS, DEV_PAIRS, TEST_PAIRS = 8000, 300, 500
SHORTEST, LONGEST = 3, 16
FREQUENT = 10
"""Every word form of dev and test occurs so often in train: the demo is about structure, not about rare words."""


#: How often each construction is drawn.
CONSTRUCTIONS: dict[Callable[[Draw], sentences.Sentence], int] = {
    sentences.statement: 30,
    sentences.question: 13,
    sentences.order: 3,
    sentences.description: 5,
    sentences.comparison: 2,
    sentences.liking: 4,
    sentences.existence: 2,
    complex_sentences.reason: 11,
    complex_sentences.quality: 5,
    complex_sentences.meanwhile: 4,
    complex_sentences.beforehand: 3,
    complex_sentences.reported: 12,
    complex_sentences.relative_subject: 6,
    complex_sentences.relative_object: 4,
    complex_sentences.purpose: 7,
    complex_sentences.sequel: 4,
    complex_sentences.contrast: 2,
    complex_sentences.pair_of_actions: 2,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A sentence, its translation, and links (source position, target position) of words split at spaces, from 0."""

    source: str
    target: str
    links: tuple[tuple[int, int], ...]

    @property
    def pharaoh(self) -> str:
        """The links as ``i-j`` pairs."""
        return " ".join(f"{i}-{j}" for i, j in self.links)


def generate(count: int, *, seed: int) -> list[Pair]:
    """``count`` pairs of 3 to 16 words a side; no source and no target occurs twice."""
    draw = Draw(seed)
    sources: set[str] = set()
    targets: set[str] = set()
    pairs: list[Pair] = []
    while len(pairs) < count:
        english, german, end = draw.weighted(CONSTRUCTIONS)(draw)
        source, source_ideas = written(english, end)
        target, target_ideas = written(german, end)
        if not all(SHORTEST <= len(side) <= LONGEST for side in (source, target)):
            continue
        pair = Pair(source=" ".join(source), target=" ".join(target), links=links(source_ideas, target_ideas))
        if pair.source not in sources and pair.target not in targets:
            sources.add(pair.source)
            targets.add(pair.target)
            pairs.append(pair)
    return pairs


def word_forms(pair: Pair) -> list[str]:
    """The words of both sides in lower case without punctuation, marked with their side."""
    sides = (("en", pair.source), ("de", pair.target))
    return [f"{side}:{word.strip('.,?').lower()}" for side, text in sides for word in text.split()]


def split(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Train, dev and test: a pair may be held out as long as train keeps enough of each of its words."""
    pool = list(pairs)
    left = Counter(form for pair in pool for form in word_forms(pair))
    parts: dict[str, list[Pair]] = {"dev": [], "test": [], "train": []}
    wanted = {"dev": DEV_PAIRS, "test": TEST_PAIRS}
    for pair in pool:
        part = next((name for name, size in wanted.items() if len(parts[name]) < size), "train")
        forms = Counter(word_forms(pair))
        if part != "train" and all(left[form] - uses >= FREQUENT for form, uses in forms.items()):
            left.subtract(forms)
            parts[part].append(pair)
        else:
            parts["train"].append(pair)
    return parts


def write_demo_corpus(directory: Path) -> None:
    """Write ``train``, ``dev`` and ``test`` ``.en``, ``.de`` and ``.align`` (Pharaoh ``i-j``, English first).

    The training files are gzip-compressed, with no time in their headers: the same sentences give the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for part, pairs in split(generate(TRAIN_PAIRS + DEV_PAIRS + TEST_PAIRS, seed=SEED)).items():
        for extension, field in (("en", "source"), ("de", "target"), ("align", "pharaoh")):
            content = "".join(getattr(pair, field) + "\n" for pair in pairs).encode()
            if part == "train":
                (directory / f"{part}.{extension}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (directory / f"{part}.{extension}").write_bytes(content)
