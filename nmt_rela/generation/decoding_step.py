"""What all searches have in common: their decoder, their constraints, the step that applies them, their result.

Shapes: S active sentences, B beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK

#: Tokens that a translation never contains.
SUPPRESSED_TOKENS = (PAD, UNK, BOS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One output sequence.

    ``log_probability`` (nats) is the sum over the tokens. ``score`` is ``log_probability`` over the length penalty.
    """

    #: Without BOS. The last token is EOS unless the search cut the sequence at its maximum length.
    tokens: tuple[int, ...]
    score: float
    log_probability: float
    token_log_probabilities: tuple[float, ...]


def length_penalty_factor(length: int, exponent: float) -> float:
    """((5 + length) / 6)^exponent (Wu et al. 2016, eq. 14, without coverage). ``length`` counts EOS."""
    return float(((5.0 + length) / 6.0) ** exponent)


class StepDecoder(Protocol):
    """A decoder that reads one token per step. The `models.decoders` and ``EnsembleDecoder`` are such decoders."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` [S, B] and return logits [S, B, V] of any float dtype, which the caller may overwrite.

        The first call appends BOS [S, 1]. The next call may overwrite the logits.
        """

    def reorder(self, beam_indices: Tensor) -> None:
        """Let beam b of sentence s continue the history of beam ``beam_indices[s, b]``.

        There may be more beams than before.
        """

    def select_sentences(self, indices: Tensor) -> None:
        """Continue with these sentences of the active batch only: positions [kept], ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConstraints:
    """The limits of a search and the score that ranks its hypotheses."""

    #: Tokens, EOS included, at which a hypothesis of each sentence is cut: [sentences], on the device of the decoder.
    max_lengths: Tensor
    #: EOS is suppressed until ``max(1, min_length)`` other tokens are written.
    min_length: int = 0
    length_penalty: float = 0.6
    #: The tokens that every hypothesis of a sentence must begin with.
    prefixes: Sequence[Sequence[int]] | None = None
    #: Tokens that never appear. Their probability is not given to other tokens.
    suppress_tokens: Sequence[int] = SUPPRESSED_TOKENS
    #: Steps between two checks for finished sentences; it changes speed only. None: 1 on the CPU, 4 elsewhere, where
    #: each check synchronizes with the CPU.
    check_every: int | None = None

    @property
    def max_steps(self) -> int:
        """Steps until the longest hypothesis is cut."""
        return int(self.max_lengths.max()) if len(self.max_lengths) else 0

    def is_check_due(self, step: int) -> bool:
        """Whether finished sentences are looked for after a step."""
        return (step + 1) % (self.check_every or (1 if self.max_lengths.device.type == "cpu" else 4)) == 0


class NextTokenLogProbs:
    """The log-probabilities of the next token, under the constraints of a search."""

    def __init__(self, constraints: SearchConstraints) -> None:
        device = constraints.max_lengths.device
        prefixes = constraints.prefixes or [()] * len(constraints.max_lengths)
        assert all(EOS not in prefix for prefix in prefixes)
        forced = torch.full((len(prefixes), max(map(len, prefixes))), -1, dtype=torch.long)
        for row, prefix in enumerate(prefixes):
            forced[row, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
        self._forced = forced.to(device)  # [sentences, longest prefix], -1 after a prefix
        self._suppressed = torch.tensor([*constraints.suppress_tokens, EOS], dtype=torch.long, device=device)
        self._min_length = max(1, constraints.min_length)

    def is_forced(self, step: int) -> bool:
        """Whether the prefix of any sentence determines its next token."""
        return step < self._forced.shape[1]

    def forced(self, step: int, rows: Tensor) -> Tensor:
        """The tokens [S] that the prefixes of the sentences ``rows`` [S] determine, −1 where they determine none."""
        return self._forced[rows, step] if self.is_forced(step) else torch.full_like(rows, -1)

    def suppressed(self, step: int) -> Tensor:
        """The tokens that may not come at a step, prefixes aside."""
        return self._suppressed if step < self._min_length else self._suppressed[:-1]

    def __call__(self, logits: Tensor, step: int, rows: Tensor) -> Tensor:
        """Log-probabilities [S, B, V], −∞ for tokens that may not come, from ``logits``, which are overwritten.

        ``rows`` [S] are the positions of the active sentences in the whole batch; ``step`` counts from 0. A prefix
        leaves a sentence its next token only, suppressed or not.
        """
        logits = logits.float()
        # In place on the CPU, where this is known to work: allocating a tensor of this size costs half as much again.
        log_probs = torch.log_softmax(logits, 2, out=logits if logits.device.type == "cpu" else None)
        if self.is_forced(step):
            forced = self.forced(step, rows).view(-1, 1, 1)
            is_forced, tokens = forced >= 0, forced.clamp(min=0).expand(-1, logits.shape[1], 1)
            forced_log_probs = log_probs.gather(2, tokens)
        log_probs.index_fill_(2, self.suppressed(step), -torch.inf)
        if self.is_forced(step):
            log_probs.masked_fill_(is_forced, -torch.inf)
            log_probs.scatter_(2, tokens, torch.where(is_forced, forced_log_probs, log_probs.gather(2, tokens)))
        return log_probs
