"""Prepared data: where preparation left the text, the sub-word models and the binary pairs of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt_rela.utils.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """A development or test set: plain text, one sentence per line, as many lines in both files."""

    name: str
    source: Path
    target: Path
    #: sacreBLEU's name of the tokenizer for the target language.
    bleu_tokenizer: str
    #: Pharaoh file of gold word alignments, source word first; None where the set has none.
    gold_alignments: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """Everything that training and evaluation need of a corpus."""

    directory: Path
    #: Binary dataset of the training pairs.
    train: Path
    #: Binary dataset of the development pairs, for the loss.
    dev_binary: Path
    dev: EvaluationSet
    tests: tuple[EvaluationSet, ...]
    #: Directory of the SentencePiece models.
    tokenizer: Path
    #: ``sources`` (cleaning statistics of each), ``total``, ``dev`` and ``tests`` (lines), ``vocabulary`` (sizes).
    counts: dict[str, Any]
    #: What the task file says the corpus is called.
    title: str
    #: What the task file says about the licence of the text; "" where it says nothing.
    licence: str
    #: Word links of the training pairs, as a dataset of word numbers (``preparation/links.py``); None without any.
    links: Path | None = None

    def evaluation_set(self, name: str) -> EvaluationSet:
        """A set by its name; ``dev`` is the development set, ``test`` the first test set. Raises ConfigError."""
        sets = {self.dev.name: self.dev, "test": self.tests[0]} | {test.name: test for test in self.tests}
        sets["dev"] = self.dev
        if name not in sets:
            raise ConfigError(f"--test-set: unknown '{name}'; {did_you_mean(name, sets)}")
        return sets[name]
