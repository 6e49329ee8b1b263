"""Training of SentencePiece models on a bounded, evenly spaced sample of the training text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import sentencepiece

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.text import raw_lines

#: Longer lines are cut, because SentencePiece skips lines over 4,192 bytes.
_MAX_CHARACTERS = 1_000
_PART = re.compile(rf".{{1,{_MAX_CHARACTERS}}}(?: |\Z)|.{{1,{_MAX_CHARACTERS}}}", re.DOTALL)
#: Fixed, because the sums of unigram training depend on it; models must be the same on every machine.
_THREADS = 16


def suitable_size(pairs: int) -> int:
    """Sub-words for a corpus: one for every ten training pairs, from 1,000 to 32,000.

    Small corpora are translated better with few (Sennrich and Zhang 2019; Ding, Renduchintala and Duh 2019).
    """
    return min(max(pairs // 10, 1_000), 32_000)


def sample_evenly(path: Path, *, lines: int, sample: int) -> Iterator[str]:
    """At most ``sample`` of the ``lines`` lines of a file, evenly spaced."""
    sample = min(sample, lines)
    with open(path, "rb") as file:
        for index, line in enumerate(raw_lines(file, str(path))):
            if (index + 1) * sample // lines > index * sample // lines:
                yield line.decode("utf-8")


def train_sentencepiece(
    lines: Iterable[str],
    *,
    algorithm: Literal["bpe", "unigram"],
    size: int,
    character_coverage: float,
    normalization: str,
    tags: Sequence[str] = (),
) -> SentencePieceTokenizer:
    """Train a SentencePiece model. The same lines and options give the same bytes.

    ``tags`` are sub-words that are never split. A corpus that does not support ``size`` sub-words gives a smaller
    model.

    Raises:
        ConfigError: ``size`` is too small for the characters of the corpus.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain.from_iterable(map(_parts, lines)),
            model_writer=model,
            model_type=algorithm,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            normalization_rule_name=normalization,
            user_defined_symbols=list(tags),
            pad_id=PAD,
            unk_id=UNK,
            eos_id=EOS,
            bos_id=BOS,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        too_small = re.search(r"(\d+) vs (\d+)", str(error)) if "required_chars" in str(error) else None
        if too_small:
            raise ConfigError(
                f"data.vocabulary_size: found {size}; the corpus has {too_small[2]} characters and special sub-words "
                "alone: choose more, or a lower data.character_coverage"
            ) from None
        raise ConfigError(
            f"data.vocabulary_size: {size}: SentencePiece refuses: {' '.join(str(error).split())}"
        ) from None
    return SentencePieceTokenizer(model.getvalue(), name="the new SentencePiece model")


def _parts(line: str) -> list[str]:
    """A line, or the parts of an over-long one, cut at spaces where there are any."""
    return [line] if len(line) <= _MAX_CHARACTERS else _PART.findall(line)
