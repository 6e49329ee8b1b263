"""The counters of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nmt_rela.config.schema import TrainingConfig


@dataclass(slots=True)
class TrainerState:
    """The position of a run and its validation history. Every checkpoint contains it."""

    #: Updates done, skipped ones included.
    update: int = 0
    #: Completed passes over the corpus.
    epoch: int = 0
    #: Updates done in this epoch, which is the index of the next update in the epoch's plan.
    next_update_in_epoch: int = 0
    #: Target tokens seen.
    target_tokens: int = 0
    #: Best result of training.checkpoint_metric so far, larger is better: that of the loss and of TER is negative.
    best_score: float | None = None
    #: Consecutive validations without a new best score.
    validations_since_best: int = 0
    #: The update of the latest validation.
    last_validated_update: int = 0
    #: Seconds of training over all starts of the run, with validations.
    elapsed: float = 0.0

    @classmethod
    def from_checkpoint(cls, progress: dict[str, Any]) -> TrainerState:
        """The state that `dataclasses.asdict` has made. Raises TypeError or ValueError for any other content."""
        state = cls(**progress)
        for name, value in progress.items():
            if name in ("best_score", "elapsed"):
                accepted = isinstance(value, (int, float)) or (value is None and name == "best_score")
            else:
                accepted = type(value) is int and 0 <= value < 2**63
            if not accepted:
                raise ValueError(f"progress.{name} is {value!r}")
        return state

    def record_validation(self, score: float | None) -> bool:
        """Count a validation after the latest update; whether its score is the best so far."""
        is_best = score is not None and (self.best_score is None or score > self.best_score)
        self.best_score = score if is_best else self.best_score
        self.validations_since_best = 0 if is_best else self.validations_since_best + 1
        self.last_validated_update = self.update
        return is_best

    def is_finished(self, settings: TrainingConfig) -> bool:
        """Whether the run has reached the end that its settings define."""
        return self.end_reason(settings) is not None

    def end_reason(self, settings: TrainingConfig) -> str | None:
        """The setting that ends the run; None while it goes on."""
        if self.update >= settings.max_updates:
            return "training.max_updates is reached"
        if 0 < settings.max_epochs <= self.epoch:
            return "training.max_epochs is reached"
        if 0 < settings.patience <= self.validations_since_best:
            return f"early stop, {self.validations_since_best} validations without a better score (training.patience)"
        return None
