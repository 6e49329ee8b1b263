"""The ranks of a run: who am I, and the few things ranks say to one another."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nmt_rela.errors import ConfigError

#: A rank that hears nothing from the others for so long gives up.
TIMEOUT = timedelta(minutes=10)
#: Gradients are summed over ranks in flat pieces of at most so many numbers.
_BUCKET_NUMBERS = 1 << 24


class RankLost(RuntimeError):
    """Another rank has died or hangs: this one ends too, and whoever started the ranks may start them again."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Add each tensor up over all ranks, in place; float tensors of one dtype travel together."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._reduce(flat, dist.ReduceOp.SUM)
            for tensor, summed in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; waits for all."""
        if self.size == 1:
            return flag
        tensor = torch.tensor([int(flag)], device=self.device)
        self._reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor.item())

    def differ(self, value: float) -> bool:
        """Whether ranks that should have the same number do not, beyond rounding (1e-6 relative); waits for all."""
        if self.size == 1:
            return False
        # Every rank takes part, or the others would wait for it: what is not finite anywhere travels as infinity.
        value = value if math.isfinite(value) else math.inf
        bounds = torch.tensor([value, -value], dtype=torch.float64, device=self.device)
        self._reduce(bounds, dist.ReduceOp.MAX)
        high, low = bounds[0].item(), -bounds[1].item()
        return high != low and not high - low <= 1e-6 * max(abs(low), abs(high) if math.isfinite(high) else 0.0)

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        try:
            dist.all_reduce(tensor, op=operation)
        except RuntimeError as error:  # what gloo and NCCL raise when a peer is gone or silent for too long
            raise RankLost(f"rank {self.rank} of {self.size} lost touch with the others: {error}") from error

    def copy_from_main(self, model: nn.Module) -> None:
        """Give every rank the main rank's parameters."""
        if self.size > 1:
            for parameter in model.parameters():
                dist.broadcast(parameter.detach(), src=0)

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Say good-bye, at the end of the run."""
        if self.size > 1:
            dist.destroy_process_group()


def join(device: Literal["auto", "cpu", "cuda"]) -> Ranks:
    """Join the ranks that torchrun has started, or be alone. Raises ConfigError when there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: 'cuda' is asked for, but no GPU is visible; accepted here: auto, cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if "RANK" not in os.environ:
        return Ranks(0, 1, place)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(), dist.get_world_size(), place)


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (
            tensor.dtype != bucket[0].dtype or sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET_NUMBERS
        ):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
