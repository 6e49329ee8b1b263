"""The processes (ranks) of a training run: their context, gradient reduction and control messages.

Gradients are reduced by DistributedDataParallel over NCCL, or gloo on CPUs, within ``COLLECTIVE_TIMEOUT``. Control
messages always use a gloo group of their own: they need no GPU synchronization, and they may wait for days, because a
rank that dies closes its connections, which ends the waiting of the others at once.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nmt_rela.kernels.availability import unusable_gpu
from nmt_rela.utils.errors import ConfigError, UserError

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Timeout of the gradient all_reduce.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
#: Timeout of control messages: how long ranks wait for one that prepares, translates or saves alone.
CONTROL_TIMEOUT = timedelta(days=7)

#: The argument that keeps DistributedDataParallel from sending buffers before each forward pass. torch 2.13 renamed it.
#: The only buffers are tables of positions, which each rank computes.
_NO_BUFFER_SYNC: dict[str, Any] = next(
    {name: False}
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class PeerLostError(RuntimeError):
    """Another rank has died or does not respond. This process must end too; a launcher may restart all ranks."""


class RemoteRankError(RuntimeError):
    """Another rank has failed and prints its error. This process must end silently with the same exit status.

    The status must be the same because torchrun reports the status of the rank that it sees ended first.
    """

    def __init__(self, *, is_user_error: bool) -> None:
        super().__init__()
        self.is_user_error = is_user_error


def sum_gradients(group: dist.ProcessGroup | None, bucket: Any) -> torch.futures.Future[Tensor]:
    """The communication hook that sums gradients over the ranks. DistributedDataParallel would average them.

    The loss is divided by the target tokens of the whole update before the backward pass, so the sum is its gradient.
    """
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device
    #: The process group of control messages; None for the default group.
    control_group: dist.ProcessGroup | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def data_parallel(self, module: nn.Module) -> DistributedDataParallel:
        """The module wrapped so that a backward pass sums gradients over the ranks. Rank 0's parameters are broadcast.

        All ranks must call it. Raises PeerLostError.
        """
        with self.communication_errors():
            wrapped = DistributedDataParallel(
                module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **_NO_BUFFER_SYNC,
            )
            # torch compares a hook's annotations as objects; here they are strings.
            wrapped.register_comm_hook(None, lambda group, bucket: sum_gradients(group, bucket))
        return wrapped

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. All ranks must call it."""
        return bool(self._maximum(torch.tensor([int(flag)])).item()) if self.world_size > 1 else flag

    def has_diverged(self, value: float) -> bool:
        """Whether a value that all ranks should share differs by more than rounding (1e-6, relative).

        All ranks must call it.
        """
        if self.world_size == 1:
            return False
        # Non-finite values become infinity, so that every rank takes part in the reduction.
        value = value if math.isfinite(value) else math.inf
        high, low = self._maximum(torch.tensor([value, -value], dtype=torch.float64)).tolist()
        return high != -low and not high + low <= 1e-6 * max(abs(low), abs(high) if math.isfinite(high) else 0.0)

    def all_gather_object(self, value: Any) -> list[Any]:
        """The plain values of all ranks, by rank. All ranks must call it."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        with self.communication_errors():
            dist.all_gather_object(values, value, group=self.control_group)
        return values

    def run_on_all_ranks(self, function: Callable[[], Result]) -> Result:
        """The result of ``function`` on this rank. If it raises on any rank, every rank raises.

        The lowest failing rank raises its own exception, the others RemoteRankError, so that the error is printed once.
        ``function`` must not communicate.
        """
        if self.world_size == 1:
            return function()
        failure: Exception | None = None
        try:
            result = function()
        except Exception as error:  # of any type: the other ranks must not wait for a rank that failed
            failure = error
        failures = self.all_gather_object(None if failure is None else isinstance(failure, UserError))
        first = next((rank for rank, is_user_error in enumerate(failures) if is_user_error is not None), None)
        if failure is not None and first == self.rank:
            raise failure
        if first is not None:
            raise RemoteRankError(is_user_error=failures[first])
        return result

    def run_on_main(self, function: Callable[[], Result]) -> Result:
        """The result of ``function`` on the main rank, which alone calls it. All ranks wait for it and return it."""
        result: Any = self.run_on_all_ranks(lambda: function() if self.is_main_process else None)
        return self.all_gather_object(result)[0]

    def raise_on_all_ranks(self, error: Exception) -> NoReturn:
        """Raise an error that every rank has detected: the main rank raises it, the others RemoteRankError."""
        raise error if self.is_main_process else RemoteRankError(is_user_error=isinstance(error, UserError))

    def _maximum(self, tensor: Tensor) -> Tensor:
        with self.communication_errors():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control_group)
        return tensor

    @contextmanager
    def communication_errors(self) -> Iterator[None]:
        """Turn the errors that gloo and NCCL raise for a lost or silent peer into PeerLostError."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size > 1 and _is_communication_error(error):
                # gloo: "[file:line] Read error [address]: Connection reset by peer. Advice", then lines of a trace
                reason = str(error).partition("\n")[0].partition(". ")[0].rpartition(": ")[2].rpartition("] ")[2]
                raise PeerLostError(
                    f"rank {self.rank} of {self.world_size} lost contact to another rank ({reason}); "
                    "the same command continues the run"
                ) from error
            raise


def _is_communication_error(error: RuntimeError) -> bool:
    """DistributedDataParallel raises plain RuntimeErrors for what happens in its reduction; only the text tells."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection", "store"))


def init_distributed(device: Literal["auto", "cpu", "cuda"]) -> DistributedContext:
    """Join the ranks that torchrun has started, or be the only one.

    A rank takes the GPU of its number on the machine, or the only one that it sees, as Slurm gives each task its own.
    Raises ConfigError for an unusable device.
    """
    on_gpu = device != "cpu" and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    visible = torch.cuda.device_count() if on_gpu else 0
    own_device = torch.device("cuda", 0 if visible == 1 else local_rank) if on_gpu else torch.device("cpu")

    def check() -> str:
        reason = None if device == "cpu" else unusable_gpu()
        if device == "cuda" and not on_gpu:
            raise ConfigError(
                f"training.device: found 'cuda', but {reason or 'no GPU is visible'}; accepted here: auto, cpu"
            )
        if reason is not None:
            LOG.warning("training.device: training on the CPU, because %s", reason)
        if not on_gpu:
            return ""
        if own_device.index >= visible:
            raise ConfigError(
                f"training.device: rank {local_rank} of this machine has no GPU, {visible} visible; "
                "accepted: at most one rank per GPU"
            )
        torch.cuda.set_device(own_device)
        return f"{socket.gethostname()} {torch.cuda.get_device_properties(own_device).uuid}"

    if "RANK" not in os.environ:
        context = DistributedContext(0, 1, own_device)
    else:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT, **_restart_safe_store())
        control_group = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
        context = DistributedContext(dist.get_rank(), dist.get_world_size(), own_device, control_group)
    gpus = context.all_gather_object(context.run_on_all_ranks(check))
    if on_gpu and len(set(gpus)) < len(gpus):
        context.raise_on_all_ranks(
            ConfigError(f"training.device: {len(gpus)} ranks on {len(set(gpus))} GPUs; accepted: one rank per GPU")
        )
    return context


def leave_process_groups() -> None:
    """Leave them after a run, or after an error that all ranks know: open groups may abort the exit of a process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _restart_safe_store() -> dict[str, Any]:
    """The store where the ranks of one machine exchange addresses, as arguments of ``init_process_group``.

    torchrun's store outlives a restart and keeps the addresses of dead ranks, so each attempt uses a prefix of its own.
    On several machines attempts are counted separately, and torch's default store is used.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    world_size = int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=False,
        timeout=COLLECTIVE_TIMEOUT,
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {
        "store": dist.PrefixStore(f"nmt_rela_attempt_{attempt}", store),  # type: ignore[attr-defined]
        "rank": int(os.environ["RANK"]),
        "world_size": world_size,
    }
