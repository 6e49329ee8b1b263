"""Metrics of the updates since the last log line. Sums stay on the device until they are read."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from nmt_rela.data.data_loader import Batch
from nmt_rela.training.distributed import DistributedContext


class StepMetrics:
    """Losses, token counts, gradient norm and time of the updates since the last ``reset``."""

    def __init__(self, device: torch.device, *, loss_normalization: Literal["tokens", "sentences"] = "tokens") -> None:
        self._device, self._loss_normalization = device, loss_normalization
        self.reset()
        self.reset_timer()

    def reset(self) -> None:
        """Forget the updates so far."""
        # Summed loss, nll and alignment loss, and skipped updates, stay on the device: reading them would synchronize.
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        self._norm = self._skipped = torch.zeros((), device=self._device)
        # Target tokens, source tokens, padded tokens of both sides, sentences, target tokens with a word link.
        self._counts = [0, 0, 0, 0, 0]
        self._seconds = self._waited = 0.0
        self.updates = 0

    def reset_timer(self) -> None:
        """Exclude the time since the last update from the throughput."""
        self._mark = time.monotonic()

    def time_data_loading(self, updates: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """The same iterator, with the time spent waiting for it added to the metrics."""
        while True:
            start = time.monotonic()
            batches = next(updates, None)
            self._waited += time.monotonic() - start
            if batches is None:
                return
            yield batches

    def update(self, loss: Tensor, nll: Tensor, batch: Batch, alignment: Tensor) -> None:
        """Add one micro-batch: its summed loss, negative log-likelihood and alignment loss."""
        padded = batch.source.numel() + batch.target.numel()
        counts = (batch.target_tokens, batch.source_tokens, padded, len(batch.indices), batch.linked_tokens)
        self._counts = [known + new for known, new in zip(self._counts, counts, strict=True)]
        self._sums += torch.stack([loss.double(), nll, alignment.double()])

    def end_step(self, norm: Tensor, skipped: Tensor) -> None:
        """Add one update: its gradient norm, and 1 where it was skipped."""
        self._norm = norm
        self._skipped = self._skipped + skipped
        now = time.monotonic()
        self._seconds += now - self._mark
        self._mark = now
        self.updates += 1

    def compute(self, context: DistributedContext) -> dict[str, Any]:
        """The metrics over all ranks, in nats, tokens and seconds. Synchronizes with the device."""
        rows = context.all_gather_object(self._row())
        sums = [sum(row[i] for row in rows) for i in range(8)]
        loss, nll, alignment, target, source, padded, sentences, linked = sums
        skipped, _, seconds, waited = rows[0][8:]
        return {
            **({"alignment_loss": alignment / linked} if linked else {}),
            "loss": loss / max(target if self._loss_normalization == "tokens" else sentences, 1.0),
            "perplexity": math.exp(min(nll / max(target, 1.0), 100.0)),
            "gradient_norm": float(self._norm),
            "skipped_updates": int(skipped),
            "target_tokens_per_second": target / max(seconds, 1e-9),
            "source_tokens_per_second": source / max(seconds, 1e-9),
            "sentences": int(sentences),
            "padding_fraction": 1.0 - (source + target) / max(padded, 1.0),
            "data_wait_fraction": waited / max(seconds, 1e-9),
        }

    def state_dict(self, context: DistributedContext) -> Tensor:
        """Everything needed to continue: float64, one row per rank. All ranks must call it."""
        return torch.tensor(context.all_gather_object(self._row()), dtype=torch.float64)

    def load_state_dict(self, state: Tensor, context: DistributedContext) -> None:
        """Continue from a ``state_dict``. Under another number of ranks the main rank takes the sums of all."""
        if state.shape[1] == 10:  # of a run from before there was an alignment loss
            zeros = state.new_zeros(len(state), 1)
            state = torch.cat([state[:, :2], zeros, state[:, 2:6], zeros, state[:, 6:]], dim=1)
        if len(state) == context.world_size:
            row = state[context.rank]
        else:
            # The values after the sums are the same on all ranks.
            row = torch.cat([state[:, :8].sum(dim=0) * context.is_main_process, state[0, 8:]])
        self._sums = row[:3].to(self._device)
        self._counts = [int(count) for count in row[3:8].tolist()]
        self._skipped = row[8].to(self._device, torch.float32)
        updates, self._seconds, self._waited = row[9:].tolist()
        self.updates = int(updates)

    def _row(self) -> list[float]:
        return [*self._sums.tolist(), *self._counts, float(self._skipped), self.updates, self._seconds, self._waited]
