"""What happened since the last log line: sums kept on the device and read once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from nmt_rela.data.data_loader import Batch
from nmt_rela.training.distributed import DistributedContext


class Window:
    """Losses, token counts, gradient norm and time of the updates since the last reading."""

    def __init__(self, device: torch.device, *, loss_normalization: Literal["tokens", "sentences"] = "tokens") -> None:
        self._device, self._loss_normalization = device, loss_normalization
        self._reset()
        self.restart_clock()

    def _reset(self) -> None:
        # Summed loss, summed negative log-likelihood and skipped updates stay on the device. What the host knows anyway
        # stays there: to copy it would wait for all that the device has still to do.
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._norm = self._skipped = torch.zeros((), device=self._device)
        self._counts = [0, 0, 0, 0]  # target tokens, source tokens, cells, sentences
        self._seconds = self._waited = 0.0
        self.updates = 0

    def restart_clock(self) -> None:
        """Leave the time since the last update out of the throughput."""
        self._mark = time.monotonic()

    def time_waiting(self, updates: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """The same iterator, its waiting noted."""
        while True:
            start = time.monotonic()
            batches = next(updates, None)
            self._waited += time.monotonic() - start
            if batches is None:
                return
            yield batches

    def add(self, loss: Tensor, likelihood: Tensor, batch: Batch) -> None:
        """Note one micro-batch."""
        cells = batch.source.numel() + batch.target.numel()
        counts = (batch.target_tokens, batch.source_tokens, cells, len(batch.indices))
        self._counts = [known + new for known, new in zip(self._counts, counts, strict=True)]
        self._sums += torch.stack([loss.double(), likelihood])

    def close_update(self, norm: Tensor, skipped: Tensor) -> None:
        """Note the end of one update."""
        self._norm = norm
        self._skipped = self._skipped + skipped
        now = time.monotonic()
        self._seconds += now - self._mark
        self._mark = now
        self.updates += 1

    def read(self, ranks: DistributedContext) -> dict[str, Any]:
        """The numbers of all ranks, in nats, tokens and seconds; waits for the device, and starts anew."""
        rows = ranks.gather(self._row())
        loss, likelihood, target, source, cells, sentences = (sum(row[i] for row in rows) for i in range(6))
        skipped, _, seconds, waited = rows[0][6:]
        values = {
            "loss": loss / max(target if self._loss_normalization == "tokens" else sentences, 1.0),
            "perplexity": math.exp(min(likelihood / max(target, 1.0), 100.0)),
            "gradient_norm": float(self._norm),
            "skipped_updates": int(skipped),
            "target_tokens_per_second": target / max(seconds, 1e-9),
            "source_tokens_per_second": source / max(seconds, 1e-9),
            "sentences": int(sentences),
            "padding_share": 1.0 - (source + target) / max(cells, 1.0),
            "data_wait_share": waited / max(seconds, 1e-9),
        }
        self._reset()
        return values

    def state(self, ranks: DistributedContext) -> Tensor:
        """What is to be known to go on from here: float64, a row for each rank; waits for the device."""
        return torch.tensor(ranks.gather(self._row()), dtype=torch.float64)

    def restore(self, state: Tensor, ranks: DistributedContext) -> None:
        """Go on from a ``state``. As many ranks as made it go on bit by bit; else the main rank takes all."""
        if len(state) == ranks.size:
            row = state[ranks.rank]
        else:
            # What follows the sums is the same on all ranks.
            row = torch.cat([state[:, :6].sum(dim=0) * ranks.is_main, state[0, 6:]])
        self._sums = row[:2].to(self._device)
        self._skipped = row[6].to(self._device, torch.float32)
        target, source, cells, sentences, _, updates, self._seconds, self._waited = row[2:].tolist()
        self._counts = [int(count) for count in (target, source, cells, sentences)]
        self.updates = int(updates)

    def _row(self) -> list[float]:
        loss, likelihood = self._sums.tolist()
        return [loss, likelihood, *self._counts, float(self._skipped), self.updates, self._seconds, self._waited]
