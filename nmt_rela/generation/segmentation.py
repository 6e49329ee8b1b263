"""Lines as sentences for the search: over-long lines are split into segments, and their translations joined."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

from nmt_rela.data.tokenizer import EOS, TAG, WORD_START, SentencePieceTokenizer
from nmt_rela.generation.decoding_step import length_penalty_factor
from nmt_rela.generation.options import TranslationHypothesis
from nmt_rela.metrics.word_alignment import NO_WORD, Link, split_words, words_of_subwords
from nmt_rela.utils.errors import did_you_mean

LOG = logging.getLogger(__name__)

#: Characters that end a sentence or an independent part of one. Quotes and brackets may follow them.
_SENTENCE_END = tuple(".!?;:…。！？；：।")
_AFTER_SENTENCE_END = "\"'”’»)]」』）"
#: In scripts without spaces a sentence may end inside a run of characters.
_SENTENCE_END_INSIDE = tuple("。！？；")


@dataclass(frozen=True, slots=True)
class Segment:
    """A line, or a part of an over-long line: what the search takes as one sentence."""

    line: int  # index in the chunk
    seed: int  # for sampling; it depends on the line number in the file, not on the batch
    ids: list[int]  # with EOS
    words: tuple[tuple[int, ...], ...]  # source words of each id, of the whole line as given; () if not asked for
    prefix: list[int]


def segment_lines(
    lines: Sequence[str],
    prefixes: Sequence[Sequence[int]] | None,
    tokenizer: SentencePieceTokenizer,
    *,
    max_length: int,
    given_words: Sequence[Sequence[int]] | None = None,
    spaced: bool = True,
    first_line: int,
) -> Iterator[Segment]:
    """The segments of lines, each of at most ``max_length`` sub-words (EOS counted); a blank line has none.

    ``prefixes`` are the forced target ids of each line. ``first_line`` is the number of the first line in its file,
    from 0. ``given_words``, of `count_given_words`, fill ``Segment.words``; ``spaced`` is that of the language. A
    warning names each line that is split, and the first one with a tag that the model does not have, if it has others.
    """
    _warn_of_unknown_tag(lines, tokenizer, first_line)
    for index, ids in enumerate(tokenizer.encode(lines)):
        if not ids:
            continue
        slices, leading = [slice(0, len(ids))], 0
        pieces = tokenizer.split([lines[index]])[0] if len(ids) >= max_length or given_words is not None else []
        if len(ids) >= max_length:
            # Tags before a line are repeated before each of its later parts.
            first = takewhile(lambda piece: piece == WORD_START or piece in tokenizer.tags, pieces[: max_length // 2])
            leading = max((i + 1 for i, piece in enumerate(first) if piece in tokenizer.tags), default=0)
            slices = split_tokens(pieces, max_length - 1 - leading)
            LOG.warning(
                "line %d: %d sub-words, more than the model's %d; translated in %d parts",
                first_line + index + 1, len(ids), max_length - 1, len(slices),
            )  # fmt: skip
        words: tuple[tuple[int, ...], ...] = ()
        if given_words is not None:
            last = len(given_words[index]) - 1
            words = tuple(
                tuple(dict.fromkeys(given_words[index][min(word, last)] for word in of_subword))
                for of_subword in words_of_subwords(pieces, spaced=spaced)
            )
        for number, part in enumerate(slices):
            yield Segment(
                line=index,
                seed=((first_line + index) << 16) + number,
                ids=[*(ids[:leading] if number else ()), *ids[part], EOS],
                words=(*(words[:leading] if number else ()), *words[part], ()) if words else (),
                prefix=list(prefixes[index]) if prefixes is not None and number == 0 else [],
            )


def _warn_of_unknown_tag(lines: Sequence[str], tokenizer: SentencePieceTokenizer, first_line: int) -> None:
    tags = tokenizer.tags
    for number, line in enumerate(lines if tags else (), first_line + 1):
        if (found := re.match(rf"(?:{TAG})(?!\S)", line)) and found[0] not in tags:
            LOG.warning(
                "line %d: the model has no tag %s; %s",
                number,
                found[0],
                did_you_mean(found[0], tags, page="the vocabulary"),
            )
            return


def count_given_words(
    line: str, tokenizer: SentencePieceTokenizer, normalize: Callable[[str], str], *, spaced: bool = True
) -> list[int]:
    """For each word that the model reads, the number of the word of ``line`` that it comes from.

    Normalization may make several words of one, or none: unusual spaces and ``▁`` separate words for the model only.
    """
    words = tokenizer.split([normalize(word) for word in split_words(line, spaced=spaced)])
    counts = [1 + max(chain((NO_WORD,), *words_of_subwords(pieces, spaced=spaced))) for pieces in words]
    return [number for number, count in enumerate(counts) for _ in range(count)] or [0]


def split_tokens(pieces: Sequence[str], limit: int) -> list[slice]:
    """Consecutive segments of at most ``limit`` pieces.

    A segment is cut at its last sentence end, else at its last word end, else at the limit. Sentence ends in its first
    quarter and word ends in its first half are not used, so that segments do not become tiny.
    """
    segments = []
    start = 0
    while len(pieces) - start > limit:
        end = start + limit
        cuts = range(end, start, -1)
        cut = next(
            (i for i in cuts if i - start > limit // 4 and _ends_sentence(pieces, i)),
            next((i for i in cuts if i - start > limit // 2 and pieces[i].startswith(WORD_START)), end),
        )
        segments.append(slice(start, cut))
        start = cut
    segments.append(slice(start, len(pieces)))
    return segments


def _ends_sentence(pieces: Sequence[str], cut: int) -> bool:
    before = pieces[cut - 1].rstrip(_AFTER_SENTENCE_END)
    if not before.strip(WORD_START) and cut >= 2:  # the quote is a piece of its own
        before = pieces[cut - 2]
    if before.endswith(_SENTENCE_END_INSIDE):
        return True
    return pieces[cut].startswith(WORD_START) and before.endswith(_SENTENCE_END)


def join_segments(
    segments: Sequence[TranslationHypothesis], length_penalty: float, joiner: str = " ", *, spaced: bool = True
) -> TranslationHypothesis:
    """The translation of a line from those of its segments, with ``joiner`` between them."""
    if len(segments) == 1:
        return segments[0]
    alignment: frozenset[Link] | None = None
    if segments[0].alignment is not None:
        text = ""
        links: set[Link] = set()
        for segment in segments:
            text = joiner.join(filter(None, (text, segment.text)))
            # Without a space between them, the last word of a segment and the first of the next may be one.
            words = len(split_words(text, spaced=spaced)) - len(split_words(segment.text, spaced=spaced))
            links |= {(source, target + words) for source, target in segment.alignment or ()}
        alignment = frozenset(links)
    tokens = tuple(chain.from_iterable(segment.tokens for segment in segments))
    log_probability = sum(segment.log_probability for segment in segments)
    return TranslationHypothesis(
        text=joiner.join(segment.text for segment in segments if segment.text),
        score=log_probability / length_penalty_factor(len(tokens), length_penalty),
        log_probability=log_probability,
        tokens=tokens,
        token_log_probabilities=tuple(chain.from_iterable(segment.token_log_probabilities for segment in segments)),
        alignment=alignment,
    )
