"""Sub-word regularization: a corpus with other segmentations of the same sentences, drawn anew for each epoch.

The drawing is plain Python, which would keep the threads of a training waiting, so ``ResamplingProcess`` runs this
file as a program of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.indexed_dataset import ParallelDataset, TokenSequences, flatten, write_dataset
from nmt_rela.data.subword_sampler import SubwordSampler
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.processes import terminate_with_parent

#: Pairs that a process segments at a time.
_BLOCK = 2048
#: The ids of the source sentences of some pairs one after another, without EOS, and their lengths; those of the target.
_Sentences = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]
_Segment = Callable[[range], _Sentences]
#: Set once in each worker process.
_segment_of_worker: _Segment
#: Lower priority than that of the training beside it.
_NICE = 5
#: Seconds between looks at whether a stop is requested.
_POLL = 0.5


def resample(
    dataset: ParallelDataset,
    tokenizers: TokenizerPair,
    directory: Path,
    *,
    alphas: Sequence[float],
    max_length: int,
    seed: int,
    epoch: int,
    workers: int = 1,
) -> None:
    """Write the dataset of an epoch: the same pairs, segmented anew.

    The segmentation of a sentence is a function of its ids, its position in the dataset, the side, ``seed`` and
    ``epoch``. A side whose alpha (source, target) is 0 stays as it is, and so does a sentence that would have more than
    ``max_length`` sub-words, EOS included. ``workers`` processes divide the work.
    """
    samplers = [
        SubwordSampler(tokenizer, alpha) if alpha else None
        for tokenizer, alpha in zip((tokenizers.source, tokenizers.target), alphas, strict=True)
    ]
    segment = partial(_segment, dataset, samplers, max_length, (seed, epoch))
    blocks = (range(start, min(start + _BLOCK, len(dataset))) for start in range(0, len(dataset), _BLOCK))
    with write_dataset(
        directory,
        source_vocabulary_size=tokenizers.source.size,
        target_vocabulary_size=tokenizers.target.size,
        vocabulary_fingerprint=tokenizers.fingerprint,
    ) as writer:
        for sentences in map(segment, blocks) if workers == 1 else _in_processes(segment, blocks, workers):
            writer.append(*sentences)


def _segment(
    dataset: ParallelDataset,
    samplers: Sequence[SubwordSampler | None],
    max_length: int,
    seeds: tuple[int, int],
    pairs: range,
) -> _Sentences:
    def sentence(side: int, sentences: TokenSequences, pair: int) -> list[int]:
        ids: list[int] = sentences[pair][:-1].tolist()
        if (sampler := samplers[side]) is None:
            return ids
        drawn = sampler.sample(ids, Random(f"{seeds} {pair} {side}"))
        return drawn if len(drawn) < max_length else ids

    source, target = (
        [sentence(side, sentences, pair) for pair in pairs]
        for side, sentences in enumerate((dataset.sources, dataset.targets))
    )
    return *flatten(source), *flatten(target)


def _in_processes(segment: _Segment, blocks: Iterator[range], workers: int) -> Iterator[_Sentences]:
    # By fork, which this program may use, as it has no other threads: the samplers are neither built nor sent again.
    # An executor notices a worker that the system kills, where a Pool would wait for ever.
    with ProcessPoolExecutor(workers, get_context("fork"), _start_worker, (segment,)) as pool:
        ahead: deque[Future[_Sentences]] = deque()  # of bounded length, and so is the memory
        for block in blocks:
            ahead.append(pool.submit(_segment_in_worker, block))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _start_worker(segment: _Segment) -> None:
    global _segment_of_worker
    terminate_with_parent()
    _segment_of_worker = segment


def _segment_in_worker(pairs: range) -> _Sentences:
    return _segment_of_worker(pairs)


class ResamplingProcess:
    """``resample`` in a process of its own, of lower priority."""

    def __init__(self, dataset: Path, tokenizers: Path, directory: Path, **arguments: Any) -> None:
        self._directory = directory
        paths = {"dataset": str(dataset), "tokenizers": str(tokenizers), "directory": str(directory)}
        arguments["parent"] = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(paths | arguments)],
            start_new_session=True,  # Ctrl-C in a terminal goes to the training, which saves and stops
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, stop_requested: Callable[[], bool] = lambda: False) -> None:
        """Return when the dataset is written. Raises DataError when that fails, or is ended for a requested stop."""
        error: str | None = None
        while error is None:
            if stop_requested():
                self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                _, error = self._process.communicate(timeout=_POLL)
        if self._process.returncode:
            lines = error.strip().splitlines() or [f"status {self._process.returncode}"]
            raise DataError(
                f"{self._directory}: data.subword_regularization: the segmentations cannot be written: {lines[-1]}"
            )

    def stop(self) -> None:
        """End it, if it is still at work."""
        self._process.terminate()
        self._process.wait()


def _main() -> None:
    terminate_with_parent()
    arguments = json.loads(sys.argv[1])
    if arguments.pop("parent") != os.getppid():
        sys.exit(1)  # it was killed before; the run may go on already, and write the same dataset
    os.nice(_NICE)
    dataset, tokenizers, directory = (Path(arguments.pop(name)) for name in ("dataset", "tokenizers", "directory"))
    resample(ParallelDataset(dataset), TokenizerPair.load(tokenizers), directory, **arguments)


if __name__ == "__main__":
    _main()
