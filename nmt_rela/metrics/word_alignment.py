"""From attention weights to word links; Pharaoh files; alignment error rate.

A link is ``(source word, target word)``, both counted from 0. numpy only: no model is needed to read, write or score
links.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import read_lines

Link = tuple[int, int]

WORD_START = "▁"
#: Pieces that belong to no word.
SPECIAL_PIECES = frozenset({"<pad>", "<s>", "</s>"})
NO_WORD = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldAlignment:
    """The gold links of one sentence pair: those that must be found, and those that may be (the sure ones among
    them).
    """

    sure: frozenset[Link] = field(default_factory=frozenset)
    possible: frozenset[Link] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentScores:
    """Corpus scores of predicted links, as shares of 1."""

    error_rate: float
    precision: float
    recall: float
    links: int


def word_ids(pieces: Sequence[str]) -> tuple[int, ...]:
    """The word of each SentencePiece piece, counted from 0; NO_WORD (-1) for special pieces and a dangling ``▁``.

    A word begins at a piece that starts with ``▁`` and at the first piece whatever it starts with (models without the
    dummy prefix, and the rest of a sentence that was cut inside a word, begin without). A lone ``▁`` belongs to the
    word that follows it, so that the count is that of the text split at white space.
    """
    groups: list[int] = []
    word = NO_WORD
    visible = True  # has the current word a character to be seen?
    for piece in pieces:
        if piece in SPECIAL_PIECES:
            groups.append(NO_WORD)
            continue
        if word == NO_WORD or (piece.startswith(WORD_START) and visible):
            word += 1
            visible = False
        visible = visible or piece.strip(WORD_START) != ""
        groups.append(word)
    if not visible:
        groups = [NO_WORD if group == word else group for group in groups]
    return tuple(groups)


def merge_pieces(
    weights: npt.ArrayLike, source_groups: Sequence[int], target_groups: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Attention between words from attention between pieces: [target pieces, source pieces] → [target words, source
    words].

    A word receives what its pieces receive together, and gives the mean of what its pieces give.
    Pieces of no word (end of sentence) are left out.
    """
    matrix = np.asarray(weights, dtype=np.float64)
    if matrix.shape != (len(target_groups), len(source_groups)):
        raise ValueError(
            f"weights of shape {matrix.shape} for {len(target_groups)} target and {len(source_groups)} source pieces"
        )
    from_source = _membership(source_groups)
    from_target = _membership(target_groups)
    pieces_in_word = np.maximum(from_target.sum(axis=0), 1.0)
    words: npt.NDArray[np.float64] = (from_target.T @ matrix @ from_source) / pieces_in_word[:, None]
    return words


def link(
    weights: npt.ArrayLike, source_groups: Sequence[int], target_groups: Sequence[int], *, shifted: bool = False
) -> frozenset[Link]:
    """Word links from one attention matrix: each target word to the source word of largest weight.

    ``weights`` is [target steps, source pieces], a row for each step of the decoder, the one that predicts the end of
    sentence included; the groups are those of ``word_ids`` for the same pieces. *Normal* takes for a piece the
    step that predicts it; *shifted* the step that reads it, which is the next one (Kobayashi et al. 2020; Chen et al.
    2020). The end of sentence is left out on both sides, and a word whose rows are null gives no link. The first
    source word wins a tie.
    """
    matrix = np.asarray(weights)
    if shifted:
        matrix = np.concatenate([matrix[1:], np.zeros_like(matrix[:1])])
    words = merge_pieces(matrix, source_groups, target_groups)
    if words.shape[1] == 0:
        return frozenset()
    best = words.argmax(axis=1)
    return frozenset((int(source), target) for target, source in enumerate(best) if words[target, source] > 0.0)


def _membership(groups: Sequence[int]) -> npt.NDArray[np.float64]:
    """[pieces, words], 1 where the piece belongs to the word."""
    words = max(groups, default=NO_WORD) + 1
    belongs: npt.NDArray[np.bool_] = np.asarray(groups, dtype=np.int64).reshape(-1, 1) == np.arange(words)
    return belongs.astype(np.float64)


def parse_pharaoh(line: str, *, where: str = "alignment") -> GoldAlignment:
    """The links of one Pharaoh line: ``i-j`` is sure, ``ipj`` (or ``i?j``) only possible. Raises DataError, naming
    ``where``.
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
        pair = (int(source), int(target))
        possible.add(pair)
        if separator == "-":
            sure.add(pair)
    return GoldAlignment(sure=frozenset(sure), possible=frozenset(possible))


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


def read_pharaoh(path: str | Path) -> list[GoldAlignment]:
    """The links of a Pharaoh file, plain or gzip by its name, one sentence pair a line. Raises DataError."""
    path = Path(path)
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            return [parse_pharaoh(line, where=f"{path}:{number}") for number, line in enumerate(read_lines(stream), 1)]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as an alignment file: {getattr(error, 'strerror', None) or error}"
        ) from error


def format_pharaoh(links: Iterable[Link]) -> str:
    """``i-j`` pairs in source order; an empty string when there is none."""
    return " ".join(f"{source}-{target}" for source, target in sorted(links))


def aer(predicted: Sequence[Iterable[Link]], gold: Sequence[GoldAlignment]) -> AlignmentScores:
    """Alignment error rate over a corpus (Och & Ney 2003): 1 − (|A∩S| + |A∩P|) / (|A| + |S|), counts summed over the
    sentences.

    Raises DataError when the numbers of sentences differ, or when neither side holds a link.
    """
    if len(predicted) != len(gold):
        raise DataError(f"{len(predicted)} predicted alignments for {len(gold)} gold ones; they must be equally many")
    links = in_sure = in_possible = sure = 0
    for found, right in zip(predicted, gold, strict=True):
        found = frozenset(found)
        links += len(found)
        sure += len(right.sure)
        in_sure += len(found & right.sure)
        in_possible += len(found & right.possible)
    if links + sure == 0:
        raise DataError("no alignment link on either side; nothing to score")
    return AlignmentScores(
        error_rate=1.0 - (in_sure + in_possible) / (links + sure),
        precision=in_possible / links if links else 0.0,
        recall=in_sure / sure if sure else 0.0,
        links=links,
    )
