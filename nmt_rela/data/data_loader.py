"""From a batch plan to tensors, prepared ahead of time by a background thread."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmt_rela.data.batch_plan import BatchPlan, cut_update
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.tokenizer import PAD
from nmt_rela.utils.prefetch import prefetch


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A micro-batch. It may have no sentences, and then one column."""

    #: Source ids, int64 [sentences, source length]; each row ends in EOS and is padded with PAD.
    source: Tensor
    #: Target ids, int64 [sentences, target length], likewise.
    target: Tensor
    #: Indices into the flattened target of the ids that are not PAD, int64 [target tokens].
    target_positions: Tensor
    #: Positions in the dataset, [sentences].
    indices: NDArray[np.integer]
    #: Source ids that are not PAD.
    source_tokens: int
    #: Target ids that are not PAD.
    target_tokens: int
    #: Number among the micro-batches of the update.
    number: int = 0
    #: Linked sub-words: indices into the flattened [sentences, target length, source length], int64; None where links
    #: are not used.
    links: Tensor | None = None
    #: Target ids that have a link.
    linked_tokens: int = 0

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device. From pinned memory the copy is asynchronous."""
        return replace(
            self,
            source=self.source.to(device, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
            target_positions=self.target_positions.to(device, non_blocking=True),
            links=None if self.links is None else self.links.to(device, non_blocking=True),
        )


class FindLinks(Protocol):
    """Finds ``Batch.links`` for the pairs at ``indices`` and their padded ids."""

    def __call__(
        self, indices: NDArray[np.integer], source: NDArray[np.int64], target: NDArray[np.int64]
    ) -> NDArray[np.int64]: ...


def collate(
    dataset: ParallelDataset,
    indices: NDArray[np.integer],
    *,
    number: int = 0,
    pin: bool = False,
    find_links: FindLinks | None = None,
) -> Batch:
    """The pairs at some positions of the dataset as one batch; ``pin`` puts it in page-locked memory."""
    rows = (dataset.sources.pad(indices), dataset.targets.pad(indices))
    positions = np.flatnonzero(rows[1] != PAD)
    found = [] if find_links is None else [find_links(indices, *rows)]
    source, target, target_positions, *links = (
        torch.from_numpy(array).pin_memory() if pin else torch.from_numpy(array) for array in (*rows, positions, *found)
    )
    return Batch(
        source=source,
        target=target,
        target_positions=target_positions,
        indices=np.array(indices),
        source_tokens=int(np.count_nonzero(rows[0] != PAD)),
        target_tokens=len(positions),
        number=number,
        links=links[0] if links else None,
        linked_tokens=len(np.unique(found[0] // rows[0].shape[1])) if found else 0,
    )


def pad_sequences(ids: Sequence[Sequence[int]]) -> Tensor:
    """Id sequences as rows padded with PAD: int64 [sentences, longest], at least one column."""
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    inside = np.arange(max(int(lengths.max(initial=1)), 1)) < lengths[:, None]
    rows = np.full(inside.shape, PAD, dtype=np.int64)
    rows[inside] = np.fromiter((i for sentence in ids for i in sentence), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(rows)


def iterate_updates(
    dataset: ParallelDataset,
    plan: BatchPlan,
    *,
    max_batch_tokens: int,
    rank: int = 0,
    world_size: int = 1,
    first_update: int = 0,
    pin: bool = False,
    find_links: FindLinks | None = None,
    depth: int = 4,
) -> Generator[list[Batch], None, None]:
    """The micro-batches of one rank, update by update, from ``first_update`` to the end of the epoch.

    They are those of ``cut_update``. A rank without pairs gets an empty list. A thread prepares up to ``depth`` updates
    ahead; its exceptions are raised here, and it ends when the generator is closed or collected.
    """
    # A new thread uses device 0 and would pin memory in a context of its own there.
    device = torch.cuda.current_device() if pin else None

    def updates() -> Iterator[list[Batch]]:
        if device is not None:
            torch.cuda.set_device(device)
        for update in range(first_update, plan.num_updates):
            ranks = cut_update(
                plan.pairs(update),
                dataset.source_lengths,
                dataset.target_lengths,
                max_batch_tokens=max_batch_tokens,
                world_size=world_size,
            )
            yield [
                collate(dataset, part.pairs, number=part.number, pin=pin, find_links=find_links) for part in ranks[rank]
            ]

    return prefetch(updates(), depth)
