"""Translation quality on a test set: its translations, written to a file, and their scores."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt_rela.data.prepared_data import EvaluationSet
from nmt_rela.generation.formatting import strip_newlines
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics.bleu import TranslationScores, compute_scores
from nmt_rela.utils.progress import ProgressBar
from nmt_rela.utils.text import read_parallel, write_lines

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The scores of one test set, and the seconds that its translation took."""

    name: str
    seconds: float
    scores: TranslationScores

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"name": self.name, "seconds": round(self.seconds, 3), **self.scores.as_dict()}


def evaluate(translator: Translator, test_set: EvaluationSet, directory: Path) -> Evaluation:
    """Translate a set into the file ``<name>.txt`` in ``directory`` and compare it with its references.

    Raises DataError for files of different line counts.
    """
    name = test_set.name
    pairs = list(read_parallel(test_set.source, test_set.target))
    start = time.perf_counter()
    with ProgressBar(f"translating {name}", unit="lines", total=len(pairs)) as bar:
        translations = translator.translate([line for line, _ in pairs], progress=bar.advance)
    seconds = time.perf_counter() - start
    hypotheses = [strip_newlines(translation.text) for translation in translations]
    write_lines(directory / f"{name}.txt", hypotheses)
    # Normalizing changes nothing in prepared test sets; other references are scored like them.
    references = [translator.normalize_target(line) for _, line in pairs]
    scores = compute_scores(hypotheses, references, tokenizer=test_set.bleu_tokenizer)
    LOG.info("%s: %.1f s, %.1f sentences/s", name, seconds, len(pairs) / max(seconds, 1e-9))
    return Evaluation(name=name, seconds=seconds, scores=scores)
