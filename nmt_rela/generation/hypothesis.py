"""What a search finds, and how it is read back from what the search considered.

Shape legend: S sentences, B beams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt_rela.data.tokenizer import EOS


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One output sequence. ``log_probability`` (nats) is the sum over tokens; ``score`` is it over the length
    penalty.
    """

    #: Without BOS; the last one is EOS unless the search had to cut at the maximum length.
    tokens: tuple[int, ...]
    score: float
    log_probability: float
    token_log_probabilities: tuple[float, ...]

    @property
    def finished(self) -> bool:
        """Whether the model ended the sequence itself."""
        return self.tokens[-1:] == (EOS,)


def length_penalty_factor(length: int, exponent: float) -> float:
    """((5 + length) / 6)^exponent (Wu et al. 2016, eq. 14, without coverage); the end of sentence counts."""
    return float(((5.0 + length) / 6.0) ** exponent)


class Trace:
    """What every step considered, so that the best can be read backwards at the end, in one transfer."""

    def __init__(self, sentences: int, beams: int, device: torch.device) -> None:
        self._beams = beams
        self._rows: list[Tensor] = []
        self._integers: list[tuple[Tensor, Tensor]] = []
        self._floats: list[tuple[Tensor, Tensor]] = []
        self._ranks: list[Tensor] = []
        self._pool_scores = torch.full((sentences, beams), float("-inf"), device=device)
        self._pool_places = torch.zeros((sentences, beams), dtype=torch.long, device=device)

    def write(
        self, rows: Tensor, parents: Tensor, tokens: Tensor, gains: Tensor, totals: Tensor, ranks: Tensor
    ) -> None:
        """The 2B candidates of a step: beam they come from, token, its log-probability, that of the whole; which ones
        went on.
        """
        self._rows.append(rows)
        self._integers.append((parents, tokens))
        self._floats.append((gains, totals))
        self._ranks.append(ranks)

    def finish(self, rows: Tensor, pool_scores: Tensor, pool_places: Tensor) -> None:
        """The finished hypotheses of sentences as they stand; a later call for the same sentence replaces them."""
        self._pool_scores[rows] = pool_scores
        self._pool_places[rows] = pool_places

    def hypotheses(self, n_best: int) -> list[list[Hypothesis]]:
        """Follow the best finished ones back to the start."""
        lines = np.cumsum([0] + [len(rows) for rows in self._rows])
        line_of = np.zeros((len(self._rows), len(self._pool_scores)), dtype=np.int64)
        for step, rows in enumerate(self._rows):
            line_of[step, rows.cpu().numpy()] = np.arange(lines[step], lines[step + 1])
        parents, tokens = (torch.cat(part).cpu().numpy() for part in zip(*self._integers, strict=True))
        gains, totals = (torch.cat(part).cpu().numpy() for part in zip(*self._floats, strict=True))
        ranks = torch.cat(self._ranks).cpu().numpy()

        def read(sentence: int, place: int, score: float) -> Hypothesis:
            step, rank = divmod(place, 2 * self._beams)
            log_probability = float(totals[line_of[step, sentence], rank])
            ids: list[int] = []
            token_gains: list[float] = []
            for back in range(step, -1, -1):
                line = line_of[back, sentence]
                ids.append(int(tokens[line, rank]))
                token_gains.append(float(gains[line, rank]))
                if back:
                    rank = ranks[line_of[back - 1, sentence], parents[line, rank]]
            return Hypothesis(
                tokens=tuple(reversed(ids)),
                score=score,
                log_probability=log_probability,
                token_log_probabilities=tuple(reversed(token_gains)),
            )

        return [
            [
                read(sentence, place, score)
                for score, place in zip(scores[:n_best], places, strict=False)
                if score > float("-inf")
            ]
            for sentence, (scores, places) in enumerate(
                zip(self._pool_scores.tolist(), self._pool_places.tolist(), strict=True)
            )
        ]
