"""Word alignment: links from attention weights, the Pharaoh format, alignment error rate.

A link is ``(source word, target word)``, both counted from 0. This module needs no model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby, islice, product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt_rela.data.languages import UNSPACED_CHARACTERS
from nmt_rela.data.tokenizer import WORD_START
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import read_lines

LOG = logging.getLogger(__name__)

Link = tuple[int, int]

#: Sub-words that belong to no word.
SPECIAL_TOKENS = frozenset({"<pad>", "<s>", "</s>"})
NO_WORD = -1
#: Lines of gold links without any link of a first word that are suspicious.
MANY_LINES = 10
_UNSPACED_PARTS = re.compile(f"[{UNSPACED_CHARACTERS}]|[^{UNSPACED_CHARACTERS}]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldAlignment:
    """The gold links of one sentence pair: sure links, and possible links, which include the sure ones."""

    sure: frozenset[Link] = field(default_factory=frozenset)
    possible: frozenset[Link] = field(default_factory=frozenset)

    def reversed(self) -> GoldAlignment:
        """The same links with source and target swapped."""
        sure, possible = (frozenset((j, i) for i, j in links) for links in (self.sure, self.possible))
        return GoldAlignment(sure=sure, possible=possible)

    def expanded(self, source: Sequence[Sequence[object]], target: Sequence[Sequence[object]]) -> GoldAlignment:
        """The same links where each word has become the words of its sequence, which may be none."""

        def numbers(words: Sequence[Sequence[object]]) -> list[range]:
            ends = list(accumulate(map(len, words)))
            return [range(end - len(word), end) for end, word in zip(ends, words, strict=True)]

        i_of, j_of = numbers(source), numbers(target)
        sure, possible = (
            frozenset(link for i, j in links for link in product(i_of[i], j_of[j]))
            for links in (self.sure, self.possible)
        )
        return GoldAlignment(sure=sure, possible=possible)


@dataclass(slots=True)
class AlignmentCounts:
    """The counts behind the alignment error rate, summed over sentences: A predicted, S sure, P possible links."""

    #: |A|
    links: int = 0
    #: |S|
    sure: int = 0
    #: |A ∩ S|
    in_sure: int = 0
    #: |A ∩ P|
    in_possible: int = 0

    def add(self, predicted: Iterable[Link], gold: GoldAlignment) -> None:
        """Add the counts of one sentence."""
        links = frozenset(predicted)
        self.links += len(links)
        self.sure += len(gold.sure)
        self.in_sure += len(links & gold.sure)
        self.in_possible += len(links & gold.possible)

    @property
    def error_rate(self) -> float:
        """AER = 1 − (|A∩S| + |A∩P|) / (|A| + |S|) (Och & Ney 2003); 1 without any link."""
        total = self.links + self.sure
        return 1.0 - (self.in_sure + self.in_possible) / total if total else 1.0

    @property
    def precision(self) -> float:
        """Fraction of the predicted links that are possible; 0 without predicted links."""
        return self.in_possible / self.links if self.links else 0.0

    @property
    def recall(self) -> float:
        """Fraction of the sure links that were predicted; 0 without sure links."""
        return self.in_sure / self.sure if self.sure else 0.0


def word_ids(subwords: Sequence[str]) -> tuple[int, ...]:
    """The word of each SentencePiece sub-word, counted from 0; NO_WORD (-1) for special tokens and a trailing ``▁``.

    A word starts at a sub-word that starts with ``▁``, and at the first sub-word in any case: models without the dummy
    prefix, and the rest of a sentence that was cut inside a word, start without ``▁``. A lone ``▁`` belongs to the word
    after it. The number of words is therefore that of the text split at white space.
    """
    words: list[int] = []
    word = NO_WORD
    has_text = True  # False while the current word consists of ▁ only
    for subword in subwords:
        if subword in SPECIAL_TOKENS:
            words.append(NO_WORD)
            continue
        if word == NO_WORD or (subword.startswith(WORD_START) and has_text):
            word += 1
            has_text = False
        has_text = has_text or subword.strip(WORD_START) != ""
        words.append(word)
    if not has_text:
        words = [NO_WORD if found == word else found for found in words]
    return tuple(words)


def split_words(line: str, *, spaced: bool = True) -> list[str]:
    """The words that Pharaoh links count: what ASCII blanks separate. A no-break space is part of a word.

    In a language that is not ``spaced``, each character of a script without spaces is a word of its own.
    """
    words = [word for word in re.split("[ \t-\r]+", line) if word]
    return words if spaced else [part for word in words for part in _UNSPACED_PARTS.findall(word)]


def words_of_subwords(subwords: Sequence[str], *, spaced: bool = True) -> list[tuple[int, ...]]:
    """The words of each SentencePiece sub-word, as `split_words` counts them; () for one that belongs to no word.

    In a language that is not ``spaced`` a sub-word may have several. Sub-words that have one in common have all.
    """
    found: list[tuple[int, ...]] = []
    count = 0
    for word, group in groupby(zip(word_ids(subwords), subwords, strict=True), key=lambda item: item[0]):
        pieces = [subword.replace(WORD_START, "") for _, subword in group]
        if word == NO_WORD or spaced:
            found += [() if word == NO_WORD else (word,)] * len(pieces)
            continue
        characters = iter(
            number for number, part in enumerate(split_words("".join(pieces), spaced=False), count) for _ in part
        )
        runs: list[list[tuple[int, ...]]] = []  # the words of neighbouring sub-words that have one in common
        for piece in pieces:
            words = tuple(dict.fromkeys(islice(characters, len(piece))))
            if runs and not set(runs[-1][0]).isdisjoint(words or runs[-1][0]):
                runs[-1] = [tuple(dict.fromkeys((*runs[-1][0], *words)))] * (len(runs[-1]) + 1)
            elif runs and not runs[-1][0]:  # a lone ▁ belongs to what follows
                runs[-1] = [words] * (len(runs[-1]) + 1)
            else:
                runs.append([words])
        found += chain.from_iterable(runs)
        count = max((number for run in runs for number in run[0]), default=count - 1) + 1
    return found


def merge_subwords(
    weights: npt.ArrayLike, source_words: Sequence[int], target_words: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Attention between words, [target words, source words], from attention between sub-words.

    ``weights`` is [target sub-words, source sub-words]; ``source_words`` and ``target_words`` come from ``word_ids``.
    Weights are summed over the sub-words of a source word and averaged over those of a target word. Sub-words of no
    word (end of sentence) are left out.
    """
    matrix = np.asarray(weights, dtype=np.float64)
    if matrix.shape != (len(target_words), len(source_words)):
        raise ValueError(
            f"weights of shape {matrix.shape} for {len(target_words)} target and {len(source_words)} source sub-words"
        )
    from_source = _membership(source_words)
    from_target = _membership(target_words)
    target_lengths = np.maximum(from_target.sum(axis=0), 1.0)
    merged: npt.NDArray[np.float64] = (from_target.T @ matrix @ from_source) / target_lengths[:, None]
    return merged


def _membership(words: Sequence[int]) -> npt.NDArray[np.float64]:
    """[sub-words, words], 1 where the sub-word belongs to the word."""
    count = max(words, default=NO_WORD) + 1
    belongs: npt.NDArray[np.bool_] = np.asarray(words, dtype=np.int64).reshape(-1, 1) == np.arange(count)
    return belongs.astype(np.float64)


def extract_alignment(
    weights: npt.ArrayLike, source_words: Sequence[int], target_words: Sequence[int], *, shifted: bool = False
) -> frozenset[Link]:
    """Word links from one attention matrix: each target word is linked to the source word of largest weight.

    ``weights`` is [decoder steps, source sub-words] and includes the step that predicts the end of sentence.
    ``source_words`` and ``target_words`` come from ``word_ids`` for the same sub-words. *Normal* takes the step that
    predicts a target sub-word, *shifted* the step that reads it, which is the next one (Kobayashi et al. 2020; Chen et
    al. 2020). The end of sentence is left out on both sides. A word whose rows are null gives no link. The first source
    word wins a tie.
    """
    matrix = np.asarray(weights)
    if shifted:
        matrix = np.concatenate([matrix[1:], np.zeros_like(matrix[:1])])
    merged = merge_subwords(matrix, source_words, target_words)
    if merged.shape[1] == 0:
        return frozenset()
    best = merged.argmax(axis=1)
    return frozenset((int(source), target) for target, source in enumerate(best) if merged[target, source] > 0.0)


def link_words(
    weights: npt.ArrayLike,
    source_words: Sequence[tuple[int, ...]],
    target_words: Sequence[tuple[int, ...]],
    *,
    shifted: bool = False,
) -> frozenset[Link]:
    """`extract_alignment` for sub-words that may have several words, as `words_of_subwords` returns them.

    Sub-words of the same words count as one. A link of two such groups links all their words.
    """
    sources, targets = ([words for words in dict.fromkeys(side) if words] for side in (source_words, target_words))
    ids = []
    for groups, side in ((sources, source_words), (targets, target_words)):
        numbers = {words: number for number, words in enumerate(groups)}
        ids.append([numbers.get(words, NO_WORD) for words in side])
    links = extract_alignment(weights, ids[0], ids[1], shifted=shifted)
    return frozenset(link for i, j in links for link in product(sources[i], targets[j]))


def parse_pharaoh(line: str, *, where: str = "alignment") -> GoldAlignment:
    """The links of one Pharaoh line: ``i-j`` is a sure link, ``ipj`` (or ``i?j``) a possible one.

    Raises DataError, which names ``where`` and the token.
    """
    sure: set[Link] = set()
    possible: set[Link] = set()
    for token in line.split():
        for separator in ("-", "p", "?"):
            source, found, target = token.partition(separator)
            if found:
                break
        if not (found and _is_index(source) and _is_index(target)):
            raise DataError(
                f"{where}: found '{token}'; accepted: i-j (sure) or ipj (possible), with i, j counted from 0"
            )
        link = (int(source), int(target))
        possible.add(link)
        if separator == "-":
            sure.add(link)
    return GoldAlignment(sure=frozenset(sure), possible=frozenset(possible))


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


def read_pharaoh(path: str | Path) -> list[GoldAlignment]:
    """The links of a Pharaoh file, one sentence pair per line; it may be compressed.

    Raises DataError, which names the file and the line.
    """
    return [parse_pharaoh(line, where=f"{path}:{number}") for number, line in enumerate(read_lines(path), start=1)]


def read_gold(
    path: Path,
    pairs: Sequence[tuple[str, str]],
    normalize: Sequence[Callable[[str], str]] = (str, str),
    *,
    reverse: bool = False,
    spaced: tuple[bool, bool] = (True, True),
) -> list[GoldAlignment]:
    """The gold links of sentence pairs, in words of the normalized pairs: a link to a word that becomes two is doubled.

    Args:
        path: a Pharaoh file.
        pairs: sources and targets as they were given, whose words the file counts.
        normalize: the normalization of each side.
        reverse: the file has the target word first.
        spaced: whether the words of each language stand between spaces. Where they do not, the file may count the
            words of a text that was segmented, which is so if all links fit them; otherwise it counts characters.

    Raises:
        DataError: the file has another number of lines than pairs, or a link of words that a pair does not have.
    """
    gold = [links.reversed() if reverse else links for links in read_pharaoh(path)]
    if len(gold) != len(pairs):
        raise DataError(f"{path}: {len(gold):,} lines of links for {len(pairs):,} pairs; accepted: one line per pair")
    between_spaces = words_between_spaces(pairs, gold, spaced, path=path)
    from_one = all(i and j for links in gold for i, j in links.possible)
    renumbered = [
        renumber(
            links,
            pair,
            normalize,
            spaced=spaced,
            between_spaces=between_spaces,
            where=f"{path}:{number}",
            from_one=from_one,
        )
        for number, (pair, links) in enumerate(zip(pairs, gold, strict=True), start=1)
    ]
    if from_one and sum(bool(links.possible) for links in gold) >= MANY_LINES:
        LOG.warning("%s: no link has a word 0; links are counted from 0, not from 1", path)
    return renumbered


def words_between_spaces(
    pairs: Iterable[tuple[str, str]], gold: Iterable[GoldAlignment], spaced: tuple[bool, bool], *, path: Path
) -> tuple[bool, bool]:
    """Whether the links of each side count words between spaces, or single characters: see `read_gold`."""
    if spaced == (True, True):
        return spaced
    fits = [True, True]
    for pair, links in zip(pairs, gold, strict=False):
        for side in (0, 1):
            fits[side] = fits[side] and all(link[side] < len(split_words(pair[side])) for link in links.possible)
    found = (spaced[0] or fits[0], spaced[1] or fits[1])
    for language, is_spaced, between in zip(("source", "target"), spaced, found, strict=True):
        if not is_spaced:
            LOG.info("%s: %s words are %s", path, language, "between spaces" if between else "single characters")
    return found


def renumber(
    links: GoldAlignment,
    pair: tuple[str, str],
    normalize: Sequence[Callable[[str], str]],
    *,
    spaced: tuple[bool, bool],
    between_spaces: tuple[bool, bool],
    where: str,
    from_one: bool,
) -> GoldAlignment:
    """The links of a pair, in words of the normalized pair: a link to a word that becomes two is doubled.

    ``spaced`` is that of the languages, ``between_spaces`` what `words_between_spaces` found. ``from_one``: the file
    seems to count from 1. Raises DataError, which names ``where``, for a link of words that the pair does not have.
    """
    words = [
        [split_words(normal(word), spaced=is_spaced) for word in split_words(side, spaced=between)]
        for side, normal, is_spaced, between in zip(pair, normalize, spaced, between_spaces, strict=True)
    ]
    counts = [len(side) for side in words]
    for i, j in sorted(links.possible):
        if i >= counts[0] or j >= counts[1]:
            is_swapped = all(i < counts[1] and j < counts[0] for i, j in links.possible)
            hint = "; counted from 1?" if from_one else "; is the target word first?" if is_swapped else ""
            raise DataError(
                f"{where}: a link of source word {i} and target word {j}; accepted: below {counts[0]} and "
                f"{counts[1]}, the words of this pair (counted from 0){hint}"
            )
    return links if all(len(word) == 1 for side in words for word in side) else links.expanded(*words)


def format_pharaoh(links: Iterable[Link]) -> str:
    """One Pharaoh line of sure links, ``i-j`` in source order; an empty string without links."""
    return " ".join(f"{source}-{target}" for source, target in sorted(links))


def format_gold(gold: GoldAlignment) -> str:
    """One Pharaoh line of gold links in source order: ``i-j`` for sure, ``ipj`` for possible links."""
    return " ".join(f"{i}{'-' if (i, j) in gold.sure else 'p'}{j}" for i, j in sorted(gold.possible))
