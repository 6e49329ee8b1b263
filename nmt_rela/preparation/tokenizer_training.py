"""Learning SentencePiece models on a bounded, evenly drawn sample of the training text."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import sentencepiece

from nmt_rela.data.normalization import primary_language
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, Vocabulary
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.text import raw_lines

LOG = logging.getLogger(__name__)

#: Languages whose text keeps every character as it is: full width and half width are different there.
_VERBATIM = {"zh", "ja"}
#: Fixed, as the sums of unigram training depend on it: the model must be the same on every machine.
_THREADS = 16


def normalisation(*languages: str) -> str:
    """SentencePiece's normalisation for a model of these languages.

    ``nmt_nfkc`` composes accents, makes all blanks one space and takes invisible characters away; it would also turn
    full-width characters into half-width ones, so that Chinese and Japanese are left as they are (``identity``).
    """
    return "identity" if _VERBATIM & set(map(primary_language, languages)) else "nmt_nfkc"


def sample_evenly(path: Path, *, lines: int, sample: int) -> Iterator[str]:
    """At most ``sample`` of the ``lines`` lines of a file, at even distances."""
    sample = min(sample, lines)
    with open(path, "rb") as file:
        for index, line in enumerate(raw_lines(file)):
            if (index + 1) * sample // lines > index * sample // lines:
                yield line.decode("utf-8")


def train_sentencepiece(
    lines: Iterable[str],
    *,
    algorithm: Literal["bpe", "unigram"],
    size: int,
    character_coverage: float,
    normalisation: str,
) -> Vocabulary:
    """Train a SentencePiece model; the same lines and options give the same bytes.

    A corpus too small for ``size`` sub-words gets as many as it supports, with a warning.

    Raises:
        ConfigError: ``size`` is too small for the characters of the corpus.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=algorithm,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            normalization_rule_name=normalisation,
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
    vocabulary = Vocabulary(model.getvalue(), name="the new SentencePiece model")
    if vocabulary.size < size:
        LOG.warning("the corpus supports %d sub-words, not data.vocabulary_size=%d", vocabulary.size, size)
    return vocabulary
