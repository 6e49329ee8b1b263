"""One step of any search: the decoder it drives, and the tokens that may come next.

Shapes: S active sentences, B beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK

#: Tokens that a translation never contains.
SUPPRESSED_TOKENS = (PAD, UNK, BOS)


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


class PrefixConstraint:
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

    ``forced`` comes from ``PrefixConstraint.at``. It leaves a sentence its next token only, suppressed or not.
    """
    # In place on the CPU, where this is known to work: allocating a tensor of this size costs half as much again.
    log_probs = torch.log_softmax(logits, 2, out=logits if logits.device.type == "cpu" else None)
    if forced is None:
        suppress_(log_probs, suppressed, allow_eos=allow_eos)
        return log_probs
    is_forced, tokens = forced
    is_forced, tokens = is_forced.view(-1, 1, 1), tokens.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    forced_log_probs = log_probs.gather(2, tokens)
    suppress_(log_probs, suppressed, allow_eos=allow_eos)
    log_probs.masked_fill_(is_forced, -torch.inf)
    free_log_probs = log_probs.gather(2, tokens)
    return log_probs.scatter_(2, tokens, torch.where(is_forced, forced_log_probs, free_log_probs))


def suppress_(scores: Tensor, suppressed: Tensor, *, allow_eos: bool) -> None:
    """Set the suppressed tokens of ``scores`` [S, B, V] to −∞, and EOS unless it is allowed."""
    scores.index_fill_(2, suppressed, -torch.inf)
    if not allow_eos:
        scores[:, :, EOS] = -torch.inf


def steps_between_checks(device: torch.device) -> int:
    """Steps between two checks for finished sentences: on an accelerator each check synchronises with the CPU."""
    return 1 if device.type == "cpu" else 4
