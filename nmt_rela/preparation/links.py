"""Word links of training pairs: read beside the pairs, and written in numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.indexed_dataset import flatten, write_dataset
from nmt_rela.data.languages import are_spaced
from nmt_rela.data.normalization import normalization_for
from nmt_rela.metrics.word_alignment import (
    MANY_LINES,
    GoldAlignment,
    format_pharaoh,
    parse_pharaoh,
    renumber,
    words_between_spaces,
)
from nmt_rela.preparation.sources.task import ParallelSource
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.text import read_lines, zip_equal

LOG = logging.getLogger(__name__)

#: The file of links beside the cleaned training text, one line per pair.
LINKS = "train.align"
#: Links of words from this one on are left out. No pair that is trained on reaches it.
_MAX_WORDS = 1 << 16
_CHUNK = 1 << 14


def with_links(
    read: Callable[[], Iterator[Sequence[str | None] | None]], parallel_source: ParallelSource, data: DataConfig
) -> Iterator[Sequence[str | None] | None]:
    """The pairs of a source with ``alignments``, each with its sure links as a third item.

    Links are in Pharaoh format, source word first. They count the words of the repaired and normalized pair, a tag
    included. ``read`` reads the pairs; it is called once more where `read_gold`'s rule for languages without spaces
    asks for it. Raises DataError for other than one line per pair, and for a link that is not one of its pair's.
    """
    path = parallel_source.alignments
    assert path is not None
    reverse = parallel_source.alignment_order != data.languages
    normalize = [normalization_for(language, data) for language in data.languages]
    tag_words = 1 if parallel_source.tag else 0

    def unequal(left: int, right: int) -> str:
        return (
            f"source '{parallel_source.name}': {path}: {right:,} lines of links for {left:,} pairs; "
            "accepted: one line per pair"
        )

    def links_of_lines() -> Iterator[GoldAlignment]:
        for number, line in enumerate(read_lines(path), start=1):
            links = parse_pharaoh(line, where=f"{path}:{number}")
            yield links.reversed() if reverse else links

    spaced = are_spaced(data.languages)
    sides = (("", "") if pair is None else (pair[0] or "", pair[1] or "") for pair in read())
    between_spaces = words_between_spaces(sides, links_of_lines(), spaced, path=path)
    from_one, linked = True, 0
    for number, (pair, links) in enumerate(zip_equal(read(), links_of_lines(), unequal), start=1):
        from_one = from_one and all(i and j for i, j in links.possible)
        linked += bool(links.possible)
        if pair is None or pair[0] is None or pair[1] is None:
            yield pair and (*pair, "")
            continue
        try:
            links = renumber(
                links, (pair[0], pair[1]), normalize, spaced=spaced, between_spaces=between_spaces,
                where=f"{path}:{number}", from_one=from_one,
            )  # fmt: skip
        except DataError as error:
            raise DataError(f"source '{parallel_source.name}': {error}") from None
        yield (*pair, format_pharaoh((i + tag_words, j) for i, j in links.sure))
    if from_one and linked >= MANY_LINES:
        LOG.warning("%s: no link has a word 0; links are counted from 0, not from 1", path)


def binarize_links(text: Path, directory: Path, *, without: Collection[int]) -> None:
    """Write the links of a text file, all lines but some, as a dataset of word numbers.

    The source sequence of pair i has the source word of each of its links, the target sequence the target words.
    """
    with (
        write_dataset(
            directory,
            source_vocabulary_size=_MAX_WORDS,
            target_vocabulary_size=_MAX_WORDS,
            vocabulary_fingerprint="numbers of words",
        ) as writer,
        open(text, "rb") as file,
    ):
        lines = (line for number, line in enumerate(file) if number not in without)
        while chunk := list(islice(lines, _CHUNK)):
            links = [[link for link in map(_numbers, line.split()) if max(link) < _MAX_WORDS] for line in chunk]
            sources, targets = ([[link[side] for link in of_pair] for of_pair in links] for side in (0, 1))
            writer.append(*flatten(sources), *flatten(targets))


def _numbers(link: bytes) -> tuple[int, int]:
    source, _, target = link.partition(b"-")
    return int(source), int(target)
