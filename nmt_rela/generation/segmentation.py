"""Lines as what the search takes, and back: long lines are cut into parts, and the parts' translations joined."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from nmt_rela.data.tokenizer import EOS, Vocabulary
from nmt_rela.generation.hypothesis import length_penalty_factor
from nmt_rela.generation.splitting import split_tokens
from nmt_rela.generation.translation import Translated
from nmt_rela.metrics.word_alignment import Link, word_ids

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A line, or a part of a line that was too long: what the search takes as one sentence."""

    line: int  # in the window
    key: int  # for sampling: the same wherever the line stands in a batch
    ids: list[int]  # with EOS
    groups: tuple[int, ...]  # the source word of each id, counted over the whole line; () unless links are wanted
    prefix: list[int]


def segment_lines(
    lines: Sequence[str],
    prefixes: Sequence[Sequence[int]] | None,
    vocabulary: Vocabulary,
    *,
    limit: int,
    grouped: bool,
    first_line: int,
) -> Iterator[Part]:
    """The parts of lines, of at most ``limit`` sub-words (EOS counted); none for blank lines.

    ``prefixes`` are the forced target ids of each line, ``first_line`` is the number of the first in its file, from 0;
    ``grouped`` parts know the word of each sub-word. A warning names each line that had to be cut.
    """
    for index, ids in enumerate(vocabulary.encode(lines)):
        if not ids:
            continue
        slices = [slice(0, len(ids))]
        pieces = vocabulary.pieces(ids) if len(ids) >= limit or grouped else []
        if len(ids) >= limit:
            slices = split_tokens(pieces, limit - 1)
            LOG.warning(
                "line %d: %d sub-words, more than the model's %d; translated in %d parts",
                first_line + index + 1, len(ids), limit - 1, len(slices),
            )  # fmt: skip
        groups = word_ids(pieces) if grouped else ()
        for number, part in enumerate(slices):
            yield Part(
                line=index,
                key=((first_line + index) << 16) + number,
                ids=[*ids[part], EOS],
                groups=(*groups[part], -1) if groups else (),
                prefix=list(prefixes[index]) if prefixes is not None and number == 0 else [],
            )


def join_segments(parts: Sequence[Translated], length_penalty: float) -> Translated:
    """The translation of a line from those of its parts."""
    if len(parts) == 1:
        return parts[0]
    alignment: frozenset[Link] | None = None
    if parts[0].alignment is not None:
        words = 0
        links: set[Link] = set()
        for part in parts:
            links |= {(source, target + words) for source, target in part.alignment or ()}
            words += 1 + max(word_ids(part.tokens), default=-1)
        alignment = frozenset(links)
    tokens = tuple(chain.from_iterable(part.tokens for part in parts))
    log_probability = sum(part.log_probability for part in parts)
    return Translated(
        text=" ".join(part.text for part in parts if part.text),
        score=log_probability / length_penalty_factor(len(tokens), length_penalty),
        log_probability=log_probability,
        tokens=tokens,
        token_log_probabilities=tuple(chain.from_iterable(part.token_log_probabilities for part in parts)),
        alignment=alignment,
    )
