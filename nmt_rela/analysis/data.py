"""The sentence pairs to analyse, with their gold alignments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nmt_rela.data.prepared_data import EvaluationSet
from nmt_rela.metrics.word_alignment import GoldAlignment, read_gold, split_words
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import read_parallel

#: Words of a sentence that fills a heatmap well.
_HEATMAP_WORDS = range(6, 21)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisData:
    """Sentence pairs as lines of text."""

    name: str
    lines: Sequence[tuple[str, str]]
    #: The gold alignment of every pair.
    gold: Sequence[GoldAlignment] | None = None
    #: The sacreBLEU tokenizer of the target language.
    bleu_tokenizer: str = "13a"
    #: Whether the words of source and target stand between spaces.
    spaced: tuple[bool, bool] = (True, True)

    def heatmap_sentence(self) -> int:
        """The index of the first pair of a length that suits a heatmap; 0 where there is none."""
        lengths = [
            max(len(split_words(side, spaced=spaced)) for side, spaced in zip(pair, self.spaced, strict=True))
            for pair in self.lines
        ]
        return next((index for index, length in enumerate(lengths) if length in _HEATMAP_WORDS), 0)


def read_analysis_data(
    files: EvaluationSet,
    *,
    normalize: tuple[Callable[[str], str], Callable[[str], str]],
    spaced: tuple[bool, bool] = (True, True),
    gold_reversed: bool = False,
    sentences: int = 0,
) -> AnalysisData:
    """The first ``sentences`` pairs (0: all) of a set of files, each side normalized by its function.

    ``spaced``: whether the words of each language stand between spaces. ``gold_reversed``: the file of gold alignments
    has the target word first. Raises DataError when the text is empty or the numbers of lines differ.
    """
    given = list(read_parallel(files.source, files.target))
    lines = [(normalize[0](left), normalize[1](right)) for left, right in given]
    if not lines:
        raise DataError(f"{files.source}: no sentence pair to analyse")
    count = sentences or len(lines)
    links = None
    if gold_reversed and files.gold_alignments is None:
        raise DataError(f"--gold-reversed: {files.name} has no gold alignments; accepted: together with --gold FILE")
    if files.gold_alignments is not None:
        links = read_gold(files.gold_alignments, given, normalize, reverse=gold_reversed, spaced=spaced)[:count]
    return AnalysisData(
        name=files.name, lines=lines[:count], gold=links, bleu_tokenizer=files.bleu_tokenizer, spaced=spaced
    )
