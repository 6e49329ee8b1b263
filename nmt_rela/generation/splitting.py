"""Where a line that is too long for the model may be cut."""

from __future__ import annotations

from collections.abc import Sequence

WORD_START = "▁"
#: What closes a sentence, or at least a part of one that stands by itself; quotes and brackets may follow.
_CLOSING = tuple(".!?;:…。！？；：।")
_AFTER_CLOSING = "\"'”’»)]」』）"
#: Scripts without spaces end a sentence inside a run of characters.
_CLOSING_ANYWHERE = tuple("。！？；")


def split_tokens(pieces: Sequence[str], limit: int) -> list[slice]:
    """Consecutive parts of at most ``limit`` pieces: cut after a sentence where one ends, else between words, else
    anywhere.

    A part takes in as many sentences as it can hold. Sentence ends in its first quarter are not used, nor word ends
    in its first half, so that parts do not become tiny.
    """
    parts = []
    start = 0
    while len(pieces) - start > limit:
        end = start + limit
        cuts = range(end, start, -1)
        cut = next(
            (i for i in cuts if i - start > limit // 4 and _ends_sentence(pieces, i)),
            next((i for i in cuts if i - start > limit // 2 and pieces[i].startswith(WORD_START)), end),
        )
        parts.append(slice(start, cut))
        start = cut
    parts.append(slice(start, len(pieces)))
    return parts


def _ends_sentence(pieces: Sequence[str], cut: int) -> bool:
    before = pieces[cut - 1].rstrip(_AFTER_CLOSING)
    if not before.strip(WORD_START) and cut >= 2:  # the quote is a piece of its own
        before = pieces[cut - 2]
    if before.endswith(_CLOSING_ANYWHERE):
        return True
    return pieces[cut].startswith(WORD_START) and before.endswith(_CLOSING)
