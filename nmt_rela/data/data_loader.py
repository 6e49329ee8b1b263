"""From a batch plan to tensors, made ahead of time by a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmt_rela.data.batch_plan import BatchPlan
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.tokenizer import PAD

#: Seconds after which a producer that waits for room looks whether it is still wanted.
_PATIENCE = 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch. It may have no sentences (then one column), where an epoch has fewer pairs than micro-batches."""

    #: Source ids, int64 [sentences, source length], each row ending in EOS and filled up with PAD.
    source: Tensor
    #: Target ids, int64 [sentences, target length], likewise.
    target: Tensor
    #: Positions in the corpus, [sentences].
    indices: NDArray[np.integer]
    #: Source ids that are not PAD.
    source_tokens: int
    #: Target ids that are not PAD.
    target_tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device; from pinned memory the copy does not wait."""
        return replace(
            self,
            source=self.source.to(device, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
        )


def collate(corpus: ParallelDataset, indices: NDArray[np.integer], *, pin: bool = False) -> Batch:
    """The pairs at some positions of the corpus as one batch; ``pin`` puts it in page-locked memory."""
    rows = (corpus.sources.pad(indices), corpus.targets.pad(indices))
    source, target = (torch.from_numpy(side).pin_memory() if pin else torch.from_numpy(side) for side in rows)
    return Batch(
        source=source,
        target=target,
        indices=np.array(indices),
        source_tokens=int(np.count_nonzero(rows[0] != PAD)),
        target_tokens=int(np.count_nonzero(rows[1] != PAD)),
    )


def pad_sequences(ids: Sequence[Sequence[int]]) -> Tensor:
    """Id sequences, as they are, as rows filled up with PAD: int64 [sentences, longest], at least one column."""
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    inside = np.arange(max(int(lengths.max(initial=1)), 1)) < lengths[:, None]
    rows = np.full(inside.shape, PAD, dtype=np.int64)
    rows[inside] = np.fromiter((i for sentence in ids for i in sentence), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(rows)


def iterate_updates(
    corpus: ParallelDataset,
    plan: BatchPlan,
    *,
    accumulate: int,
    rank: int = 0,
    ranks: int = 1,
    first_update: int = 0,
    pin: bool = False,
    prefetch: int = 4,
) -> Generator[list[Batch], None, None]:
    """The micro-batches of one rank, update by update, from ``first_update`` to the end of the epoch.

    Rank r of R gets micro-batches r, r + R, … of each update's ``accumulate``. A thread makes up to ``prefetch``
    updates ahead; what it raises is raised here, and it ends when the iterator is closed or forgotten.
    """
    if accumulate != plan.accumulate:
        raise ValueError(f"the plan was made for updates of {plan.accumulate} micro-batches, not {accumulate}")
    if accumulate % ranks:
        raise ValueError(f"{accumulate} micro-batches cannot be shared evenly by {ranks} ranks")
    made: queue.Queue[list[Batch] | BaseException | None] = queue.Queue(maxsize=prefetch)
    closed = threading.Event()

    def put(item: list[Batch] | BaseException | None) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=_PATIENCE)
                return True
        return False

    # A new thread is on device 0, and would pin memory in a context of its own there.
    device = torch.cuda.current_device() if pin else None

    def produce() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)
            for update in range(first_update, plan.updates):
                first = update * accumulate
                batches = [
                    collate(corpus, plan.batch(index), pin=pin)
                    for index in range(first + rank, first + accumulate, ranks)
                ]
                if not put(batches):
                    return
            put(None)
        except BaseException as error:  # Whatever ends this thread has to be seen by the one that waits for it.
            put(error)

    thread = threading.Thread(target=produce, name="nmt-rela-loading", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
