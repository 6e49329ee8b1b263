"""The ranks of a run: who am I, and the few things ranks say to one another.

Gradients travel between devices (NCCL, or gloo on CPUs) and must arrive within ``TIMEOUT``. Everything else is a
message between processes (always gloo): it makes no GPU wait, and may take as long as it needs, because a rank that
dies closes its connections, which ends the waiting of the others at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nmt_rela.utils.errors import ConfigError, UserError

Result = TypeVar("Result")

#: A rank whose gradients nobody adds to for so long gives up.
TIMEOUT = timedelta(minutes=10)
#: How long ranks wait for one that works alone (prepares, translates, saves) and is alive.
PATIENCE = timedelta(days=7)
#: Gradients are summed over ranks in flat pieces of at most so many numbers.
_BUCKET_NUMBERS = 1 << 24


class PeerLostError(RuntimeError):
    """Another rank has died or hangs: this one ends too, and whoever started the ranks may start them again."""


class RemoteRankError(RuntimeError):
    """Another rank has failed and says why: this one ends without a word, with the same exit status.

    The same, because torchrun passes on the status of whichever rank it sees ended first.
    """

    def __init__(self, *, mistake: bool) -> None:
        super().__init__()
        self.mistake = mistake  # the user's, not a fault of ours


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device
    #: The group that messages go through; None for the one that gradients go through.
    messages: dist.ProcessGroup | None = None

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
            with self._in_touch():
                dist.all_reduce(flat)
            for tensor, summed in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; waits for all."""
        return bool(self._maximum(torch.tensor([int(flag)])).item()) if self.size > 1 else flag

    def differ(self, value: float) -> bool:
        """Whether ranks that should have the same number do not, beyond rounding (1e-6 relative); waits for all."""
        if self.size == 1:
            return False
        # Every rank takes part, or the others would wait for it: what is not finite anywhere travels as infinity.
        value = value if math.isfinite(value) else math.inf
        high, low = self._maximum(torch.tensor([value, -value], dtype=torch.float64)).tolist()
        return high != -low and not high + low <= 1e-6 * max(abs(low), abs(high) if math.isfinite(high) else 0.0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks (plain values, equal in kind), in the order of the ranks; waits for all."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        with self._in_touch():
            dist.all_gather_object(values, value, group=self.messages)
        return values

    def together(self, act: Callable[[], Result]) -> Result:
        """What ``act`` gives. When it fails on any rank, it fails on all.

        The first of those ranks raises what it met, so that one mistake is told once; the others raise RemoteRankError.
        ``act`` must not wait for other ranks.
        """
        if self.size == 1:
            return act()
        failure: Exception | None = None
        try:
            result = act()
        except Exception as error:  # of any kind: the others must not wait for what has failed
            failure = error
        failed = self.gather(None if failure is None else isinstance(failure, UserError))
        first = next((rank for rank, mistake in enumerate(failed) if mistake is not None), None)
        if failure is not None and first == self.rank:
            raise failure
        if first is not None:
            raise RemoteRankError(mistake=failed[first])
        return result

    def on_main(self, act: Callable[[], Result]) -> Result:
        """What ``act`` gives on the main rank, which alone calls it, on every rank; the others wait."""
        result: Any = self.together(lambda: act() if self.is_main else None)
        return self.gather(result)[0]

    def fail(self, error: Exception) -> NoReturn:
        """Raise what all ranks have met: the main rank says it, the others raise RemoteRankError."""
        raise error if self.is_main else RemoteRankError(mistake=isinstance(error, UserError))

    def copy_from_main(self, model: nn.Module) -> None:
        """Give every rank the main rank's parameters."""
        if self.size > 1:
            for parameter in model.parameters():
                with self._in_touch():
                    dist.broadcast(parameter.detach(), src=0)

    def leave(self) -> None:
        """Say good-bye, at the end of the run."""
        if self.size > 1:
            dist.destroy_process_group()

    def _maximum(self, tensor: Tensor) -> Tensor:
        with self._in_touch():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.messages)
        return tensor

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo and NCCL raise when a peer is gone or silent for too long
            raise PeerLostError(f"rank {self.rank} of {self.size} lost touch with the others: {error}") from error


def join(device: Literal["auto", "cpu", "cuda"]) -> DistributedContext:
    """Join the ranks that torchrun has started, or be alone. Raises ConfigError when there is no such device."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")

    def check() -> None:
        if device == "cuda" and not on_gpu:
            raise ConfigError("training.device: 'cuda' is asked for, but no GPU is visible; accepted here: auto, cpu")
        if on_gpu and local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"training.device: rank {local_rank} of this machine has no GPU, {torch.cuda.device_count()} visible; "
                "accepted: at most one rank a GPU"
            )
        if on_gpu:
            torch.cuda.set_device(place)

    if "RANK" not in os.environ:
        ranks = DistributedContext(0, 1, place)
    else:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT, **_own_store())
        messages = dist.new_group(backend="gloo", timeout=PATIENCE)
        ranks = DistributedContext(dist.get_rank(), dist.get_world_size(), place, messages)
    ranks.together(check)
    return ranks


def _own_store() -> dict[str, Any]:
    """Where the ranks of one machine find one another. torchrun's store outlives a restart, with the addresses of the
    ranks that died in it: so each attempt has its own part. (On several machines attempts are counted separately.)
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    size = int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False, timeout=TIMEOUT
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {
        "store": dist.PrefixStore(f"nmt_rela_attempt_{attempt}", store),  # type: ignore[attr-defined]
        "rank": int(os.environ["RANK"]),
        "world_size": size,
    }


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
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
