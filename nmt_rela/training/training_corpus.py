"""The training corpus, epoch by epoch: which pairs an epoch holds, how they are segmented, and its batch plan."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import Config
from nmt_rela.data.batch_plan import BatchPlan, plan_epoch
from nmt_rela.data.corpus_weights import source_weights, weighted_pairs
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.languages import are_spaced
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.subword_regularization import ResamplingProcess
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.subword_links import SubwordLinks
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.prefetch import prefetch
from nmt_rela.utils.processes import available_cores


class StopRequestedError(Exception):
    """A stop was requested before the segmentations of an epoch were written. All ranks raise it."""


class TrainingCorpus:
    """The pairs of every epoch.

    With sub-word regularization each epoch has a dataset of its own in the run's ``epochs/``. A process of the main
    rank writes it during the epoch before.
    """

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        tokenizers: TokenizerPair,
        *,
        run: RunDirectory,
        context: DistributedContext,
    ) -> None:
        """Raises DataError when the dataset is missing or damaged."""
        #: All pairs in their one segmentation. It identifies the corpus.
        self.base = ParallelDataset(data.train, tokenizers)
        #: The pairs in the segmentation of the epoch that was planned last.
        self.dataset = self.base
        #: The word links of the pairs, for guided alignment.
        self.links: SubwordLinks | None = None
        if config.training.guided_alignment.weight:
            assert data.links is not None, "prepare was not asked for links"
            self.links = SubwordLinks(data.links, tokenizers, spaced=are_spaced(config.data.languages))
        self._config, self._tokenizers, self._context = config, tokenizers, context
        self._sizes: dict[str, int] = {name: counts["kept"] for name, counts in data.counts["sources"].items()}
        if sum(self._sizes.values()) != len(self.base):
            raise DataError(f"{data.train}: {len(self.base):,} pairs, {sum(self._sizes.values()):,} by the statistics")
        #: Pairs of each training source in the epoch that was planned last, by its name.
        self._pairs_by_source = self._sizes
        self._directory, self._tokenizer_directory = run.epochs, data.tokenizer
        #: The datasets of the epochs after ``_epoch``, as they are written.
        self._written: Generator[Path, None, None] | None = None
        self._process: ResamplingProcess | None = None
        self._starting, self._is_over = threading.Lock(), False
        self._epoch = -1

    def plan(self, epoch: int, *, stop_requested: Callable[[], bool] = lambda: False) -> BatchPlan:
        """The plan of an epoch; ``dataset`` then holds its pairs. All ranks must call it.

        Raises DataError or OSError when its segmentations cannot be written; StopRequestedError when the main rank is
        asked to stop before they are.
        """
        data, training = self._config.data, self._config.training
        self.dataset = self.base
        if any(data.regularization):
            path = self._context.run_on_main(lambda: self._resampled(epoch, stop_requested))
            if path is None:
                raise StopRequestedError
            self.dataset = ParallelDataset(path)
        chosen = None
        self._pairs_by_source = self._sizes
        if data.weights or data.temperature != 1:
            weights = source_weights(self._sizes, data.weights, data.temperature)
            by_source = weighted_pairs([*self._sizes.values()], weights, seed=training.seed, epoch=epoch)
            self._pairs_by_source = dict(zip(self._sizes, map(len, by_source), strict=True))
            chosen = np.concatenate(by_source)
            if not len(chosen):
                raise DataError(
                    f"data.weights: epoch {epoch} holds none of {len(self.base):,} pairs; choose larger ones"
                )
        return plan_epoch(
            self.dataset.source_lengths,
            self.dataset.target_lengths,
            update_tokens=training.update_tokens,
            seed=training.seed,
            epoch=epoch,
            chosen=chosen,
        )

    def metrics(self) -> dict[str, int]:
        """What the epoch that was planned last holds, for metrics.jsonl: the pairs of each training source."""
        return {f"pairs/{name}": pairs for name, pairs in self._pairs_by_source.items()}

    def close(self, *, is_finished: bool) -> None:
        """End the writing of later epochs. A finished run needs no segmentations any more."""
        if self._written is not None:
            self._written.close()
        with self._starting:
            self._is_over = True
        if self._process is not None:
            self._process.stop()
        if is_finished and self._context.is_main_process:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _resampled(self, epoch: int, stop_requested: Callable[[], bool]) -> Path | None:
        """The dataset of an epoch, None after a request to stop.

        The thread goes on with the next one; those of earlier epochs are removed.
        """
        if self._written is None or epoch != self._epoch + 1:
            epochs = range(epoch, self._config.training.max_epochs or sys.maxsize)
            self._written = prefetch((self._write(number, stop_requested) for number in epochs), depth=1)
        try:
            path = next(self._written)
        except DataError:  # also where the signal has reached, and ended, the process that writes
            if stop_requested():
                return None
            raise
        self._epoch = epoch
        for other in self._directory.glob("*-*"):
            if (number := other.name.partition("-")[0]).isdecimal() and int(number) < epoch:
                shutil.rmtree(other, ignore_errors=True)
        return path

    def _write(self, epoch: int, stop_requested: Callable[[], bool]) -> Path:
        """Write the dataset of an epoch, unless an earlier process has: its name says what it depends on."""
        data, seed = self._config.data, self._config.training.seed
        depends_on = [self.base.fingerprint, self._tokenizers.fingerprint, data.regularization, data.max_length, seed]
        path = self._directory / f"{epoch}-{hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]}"
        try:
            ParallelDataset(path, self._tokenizers).verify()
        except DataError:
            with self._starting:
                if self._is_over:
                    raise
                self._process = ResamplingProcess(
                    self.base.directory,
                    self._tokenizer_directory,
                    path,
                    alphas=data.regularization,
                    max_length=data.max_length,
                    seed=seed,
                    epoch=epoch,
                    workers=max(1, available_cores() // 2),
                )
            self._process.wait(stop_requested)
        return path
