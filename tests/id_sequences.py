"""Pairs of id sequences for the dataset writer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from nmt_rela.data.indexed_dataset import ParallelDatasetWriter

Sentences = Sequence[Sequence[int]]


def append(writer: ParallelDatasetWriter, source: Sentences, target: Sentences) -> None:
    flat = (
        np.array(numbers, dtype=np.int64)
        for side in (source, target)
        for numbers in (list(chain.from_iterable(side)), list(map(len, side)))
    )
    writer.append(*flat)
