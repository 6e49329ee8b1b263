"""Where a run stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Progress:
    """The counters of a run; all of it is in every checkpoint."""

    #: Updates done, skipped ones included.
    update: int = 0
    #: Passes over the corpus completed.
    epoch: int = 0
    #: Updates done in this epoch: the cursor of its plan.
    cursor: int = 0
    #: Target tokens seen.
    target_tokens: int = 0
    #: Best validation score so far (BLEU, or minus the loss), and validations in a row without a better one.
    best_score: float | None = None
    without_best: int = 0
    #: The update of the latest validation.
    validated: int = 0

    def as_values(self) -> dict[str, Any]:
        """What ``from_values`` takes: plain values that JSON can say."""
        return dataclasses.asdict(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Progress:
        """Take the values of a checkpoint; the first ones wrote −infinity for no score, and not when they validated."""
        progress = cls(**{"validated": values["update"], **values})
        if progress.best_score == -math.inf:
            progress.best_score = None
        return progress
