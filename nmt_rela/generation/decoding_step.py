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
    """A decoder that reads one token per step. ``IncrementalDecoder`` and ``EnsembleDecoder`` are such decoders."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` [S, B] and return float32 logits [S, B, V], which the caller may overwrite.

        The first call appends BOS [S, 1].
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

    def allow_eos(self, step: int) -> bool:
        """Whether EOS may be the token of a step, counted from 0."""
        return step >= max(1, self.min_length)

    def is_check_due(self, step: int) -> bool:
        """Whether finished sentences are looked for after a step."""
        return (step + 1) % (self.check_every or (1 if self.max_lengths.device.type == "cpu" else 4)) == 0

    def suppressed(self) -> Tensor:
        """``suppress_tokens`` as a tensor."""
        return torch.tensor(self.suppress_tokens, dtype=torch.long, device=self.max_lengths.device)

    def prefix_table(self) -> PrefixTable | None:
        """``prefixes`` as a table, if there are any."""
        return None if self.prefixes is None else PrefixTable(self.prefixes, self.max_steps, self.max_lengths.device)


class PrefixTable:
    """The forced prefix of every sentence, in one tensor. A sentence is free after its prefix."""

    def __init__(self, prefixes: Sequence[Sequence[int]], max_length: int, device: torch.device) -> None:
        assert all(EOS not in prefix and len(prefix) < max_length for prefix in prefixes)
        self._longest = max(map(len, prefixes), default=0)
        table = torch.full((len(prefixes), self._longest), -1, dtype=torch.long)
        for row, prefix in enumerate(prefixes):
            table[row, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
        self._table = table.to(device)

    def at(self, step: int, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Which of the sentences ``rows`` [S] are forced at a step [S], and to which token [S]; None if none is."""
        if step >= self._longest:
            return None
        tokens = self._table[rows, step]
        return tokens >= 0, tokens.clamp(min=0)


def constrained_log_softmax(
    logits: Tensor, suppressed: Tensor, *, allow_eos: bool, forced: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Log-probabilities [S, B, V] of the next token, −∞ for tokens that may not come. Overwrites ``logits``.

    ``forced`` comes from ``PrefixTable.at``. It leaves a sentence its next token only, suppressed or not.
    """
    # In place on the CPU, where this is known to work: allocating a tensor of this size costs half as much again.
    log_probs = torch.log_softmax(logits, 2, out=logits if logits.device.type == "cpu" else None)
    if forced is not None:
        is_forced, tokens = forced[0].view(-1, 1, 1), forced[1].view(-1, 1, 1).expand(-1, logits.shape[1], 1)
        forced_log_probs = log_probs.gather(2, tokens)
    log_probs.index_fill_(2, suppressed, -torch.inf)
    if not allow_eos:
        log_probs[:, :, EOS] = -torch.inf
    if forced is not None:
        log_probs.masked_fill_(is_forced, -torch.inf)
        log_probs.scatter_(2, tokens, torch.where(is_forced, forced_log_probs, log_probs.gather(2, tokens)))
    return log_probs
