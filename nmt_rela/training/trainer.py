"""The training loop: plan → micro-batches → one update → now and then a validation and a checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nmt_rela.checkpoints.checkpoint import load_state, load_tensors
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import RunDirectory, build_model, load_weights
from nmt_rela.config.schema import Config
from nmt_rela.data.batch_plan import BatchPlan, plan_epoch
from nmt_rela.data.data_loader import Batch, iterate_updates
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import PAD, TokenizerPair
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.loss import fused_linear_cross_entropy
from nmt_rela.training.metric_logger import Monitor, finite
from nmt_rela.training.optimizer import build_optimizer, learning_rate
from nmt_rela.training.precision import resolve_precision
from nmt_rela.training.profiling import profiled
from nmt_rela.training.step_metrics import Window
from nmt_rela.training.trainer_state import Progress
from nmt_rela.training.validation import Validator
from nmt_rela.utils.errors import CheckpointError, ConfigError, UserError
from nmt_rela.utils.memory import trim_malloc

log = logging.getLogger("nmt_rela.training")

Outcome = Literal["finished", "stopped"]


class TrainingDivergedError(UserError):
    """Loss or gradients were not finite for too many updates in a row."""


class Trainer:
    """One run on one rank."""

    def __init__(
        self, config: Config, *, data: PreparedData, run: RunDirectory, ranks: DistributedContext, resume: Path | None
    ) -> None:
        """Make everything that ``run`` needs, without a word to other ranks; ``resume`` is a checkpoint to go on from.

        Raises ConfigError for what this machine or number of ranks cannot do, CheckpointError for weights that do not
        fit.
        """
        self.config, self.run_directory, self.ranks = config, run, ranks
        settings = config.training
        if settings.accumulate % ranks.size:
            raise ConfigError(
                f"training.accumulate: {settings.accumulate} micro-batches cannot be shared by {ranks.size} ranks; "
                f"accepted: a multiple of {ranks.size}"
            )
        self.corpus = ParallelDataset(data.train)
        self.vocabularies = TokenizerPair.load(data.tokenizer)
        torch.manual_seed(_mixed(settings.seed))
        self.model = build_model(config.model, self.vocabularies).to(ranks.device)
        self.parameters = list(self.model.parameters())
        self.optimizer = build_optimizer(self.parameters, settings)
        self.precision = resolve_precision(settings.precision, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.precision is torch.float16)
        self.progress = Progress()
        self.keeper = CheckpointManager(run, settings)
        self.window = Window(ranks.device, loss_normalization=settings.loss_normalization)
        self._nonfinite_in_a_row = torch.zeros((), device=ranks.device)
        # This rank's share of the latest update, and its loss.
        self._latest: tuple[list[Batch], Tensor] = ([], torch.zeros(()))
        self._score: float | None = None  # of the last validation, when it was after the latest update
        self._unsaved = False
        if resume is not None:
            self._load(resume)
        elif settings.initialize_from:
            self._start_from(RunDirectory(settings.initialize_from))
        self.validator = Validator(config, data, self.vocabularies, ranks)
        self.monitor: Monitor | None = None

    def run(self, *, stop_requested: Callable[[], bool]) -> Outcome:
        """Train to the end, or until somebody asks to stop; either way the last update is saved.

        Raises TrainingDivergedError; CheckpointError when the last update cannot be saved.
        """
        settings, progress = self.config.training, self.progress
        deadline = time.monotonic() + settings.max_hours * 3600 if settings.max_hours else math.inf
        if self.ranks.is_main:
            self.monitor = Monitor(self.run_directory, update=progress.update, validated=progress.validated)
        try:
            parameters = sum(p.numel() for p in self.parameters)
            log.info(
                "%s parameters, %s pairs, %s on %s rank(s) of %s, from update %d",
                f"{parameters:,}", f"{len(self.corpus):,}", str(self.precision).removeprefix("torch."),
                self.ranks.size, self.ranks.device.type, progress.update,
            )  # fmt: skip
            self.ranks.copy_from_main(self.model)
            self._make_up()
            self._train(lambda: stop_requested() or time.monotonic() > deadline)
            if self._unsaved:
                self._save()
            if self._unsaved:
                self.ranks.fail(
                    CheckpointError(f"{self.run_directory.checkpoints}: update {progress.update} is not saved")
                )
        finally:
            if self.monitor:
                self.monitor.close()
        return "finished" if self._complete() else "stopped"

    def _train(self, stop_requested: Callable[[], bool]) -> None:
        settings, progress = self.config.training, self.progress
        stopping = False
        with profiled(
            self.run_directory, settings.profile_updates, first=progress.update, ranks=self.ranks
        ) as end_of_update:
            while not stopping and not self._complete():
                plan = self._plan()
                updates = iterate_updates(
                    self.corpus,
                    plan,
                    accumulate=settings.accumulate,
                    rank=self.ranks.rank,
                    ranks=self.ranks.size,
                    first_update=progress.cursor,
                    pin=self.ranks.device.type == "cuda",
                )
                self.window.restart_clock()
                for batches in self.window.time_waiting(updates):
                    self.step(batches, plan)
                    stopping = self.ranks.any(stop_requested())
                    self._after_update(leaving=stopping)
                    end_of_update()
                    if stopping or self._complete():
                        break
                updates.close()
                self._close_epoch(plan)

    def step(self, batches: list[Batch], plan: BatchPlan) -> None:
        """One update from this rank's micro-batches; nothing in it waits for the device."""
        settings, progress = self.config.training, self.progress
        self.model.train()
        total_tokens, total_sentences = self._update_size(plan)
        normaliser = total_tokens if settings.loss_normalization == "tokens" else total_sentences
        summed_loss = torch.zeros((), device=self.ranks.device)
        for index, batch in enumerate(batches):
            if len(batch.indices) == 0:
                continue
            # Dropout is a function of the seed and the micro-batch: an exact resume needs no saved random state, and
            # the number of ranks changes nothing.
            position = progress.update * settings.accumulate + index * self.ranks.size + self.ranks.rank
            torch.manual_seed(_mixed(settings.seed, position))
            loss, likelihood = self._loss(batch)
            self.scaler.scale(loss / normaliser).backward()
            self.window.add(loss.detach(), likelihood, batch)
            summed_loss += loss.detach()
        if self.ranks.size > 1:
            # A rank may have nothing but empty micro-batches: the others wait for its share of the sum all the same.
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.ranks.sum(gradients)
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm(gradients)
        # The fused optimiser looks at this flag on the device and leaves everything as it is when it is set.
        skipped = (~norm.isfinite()).float()
        if settings.max_grad_norm:
            clip_grads_with_norm_(self.parameters, settings.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, progress.update + 1, dimension=self.config.model.d_model)
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._nonfinite_in_a_row = (self._nonfinite_in_a_row + skipped) * skipped
        self._latest = (batches, summed_loss)
        self.window.close_update(norm, skipped)
        self._unsaved = True
        progress.update += 1
        progress.cursor += 1
        progress.target_tokens += total_tokens
        self._close_epoch(plan)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and summed negative log-likelihood of one micro-batch."""
        positions = (batch.target != PAD).flatten().nonzero()[:, 0]  # found on the host, where it costs no waiting
        token_weights = None
        if self.config.training.loss_normalization == "sentences":
            lengths = (batch.target != PAD).sum(dim=1, keepdim=True)
            token_weights = lengths.float().reciprocal().expand_as(batch.target).flatten()[positions]
            token_weights = self._send(token_weights)
        batch, positions = batch.to(self.ranks.device), self._send(positions)
        with self._autocast():
            states = self.model.decode(
                self.model.shift_right(batch.target), self.model.encode(batch.source)
            )  # [sentences, length, dimension]
            return fused_linear_cross_entropy(
                states.flatten(0, 1)[positions],
                self.model.output_embedding,
                batch.target.flatten()[positions],
                smoothing=self.config.training.label_smoothing,
                token_weights=token_weights,
            )

    def _send(self, tensor: Tensor) -> Tensor:
        """To the device, without waiting for what it has still to do."""
        return (tensor.pin_memory() if self.ranks.device.type == "cuda" else tensor).to(
            self.ranks.device, non_blocking=True
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, dtype=self.precision, enabled=self.precision is not torch.float32)

    def _plan(self) -> BatchPlan:
        settings = self.config.training
        return plan_epoch(
            self.corpus.source_lengths,
            self.corpus.target_lengths,
            batch_tokens=settings.batch_tokens,
            accumulate=settings.accumulate,
            seed=settings.seed,
            epoch=self.progress.epoch,
        )

    def _close_epoch(self, plan: BatchPlan) -> None:
        if self.progress.cursor == plan.updates:
            self.progress.epoch, self.progress.cursor = self.progress.epoch + 1, 0

    def _update_size(self, plan: BatchPlan) -> tuple[int, int]:
        """Target tokens and sentences of the coming update on all ranks: every rank knows the whole plan."""
        first = self.progress.cursor * plan.accumulate
        pairs = plan.order[plan.starts[first] : plan.starts[first + plan.accumulate]]
        return int(self.corpus.target_lengths[pairs].sum()), len(pairs)

    def _complete(self) -> bool:
        settings, progress = self.config.training, self.progress
        return (
            progress.update >= settings.max_updates
            or (settings.max_epochs > 0 and progress.epoch >= settings.max_epochs)
            or (settings.patience > 0 and progress.without_best >= settings.patience)
        )

    def _after_update(self, *, leaving: bool) -> None:
        """Whatever is due after an update: a log line, a validation, a checkpoint."""
        settings, update = self.config.training, self.progress.update
        self._score = None
        save = update % settings.save_every == 0 or self._complete()
        validate = self._is_validation_due()
        if update % settings.log_every == 0 or save or validate:
            self._log()
        if leaving:  # at once: ``run`` saves, and a validation is made up for when the run goes on
            return
        is_best = self._validate() if validate else False
        if save or is_best:
            self._save()
            trim_malloc()
        if validate:
            self.window.restart_clock()

    def _make_up(self) -> None:
        """Do what was due when somebody asked to stop."""
        if self.progress.validated < self.progress.update and self._is_validation_due():
            self._log()
            self._validate()
            self._save()

    def _is_validation_due(self) -> bool:
        return self.progress.update % self.config.training.validate_every == 0 or self._complete()

    def _log(self) -> None:
        if self.window.updates == 0:
            return
        values = self.window.read(self.ranks)
        progress = self.progress
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        values["epoch"] = progress.epoch
        # All ranks have the same gradients when they have been summed, and should have made the same weights of them.
        weights_norm = float(get_total_norm(self.parameters)) if self.ranks.size > 1 else 0.0
        if self.ranks.differ(values["gradient_norm"]) or self.ranks.differ(weights_norm):
            self.ranks.fail(
                RuntimeError(f"update {progress.update}: the ranks have come apart: gradients or weights differ")
            )
        if self.monitor:
            self.monitor.record("train", progress.update, values)
            log.info(
                "update %6d  loss %.4f  perplexity %.2f  gradient norm %.3f  rate %.2e  %s target tokens/s",
                progress.update, values["loss"], values["perplexity"], values["gradient_norm"],
                values["learning_rate"], f"{values['target_tokens_per_second']:,.0f}",
            )  # fmt: skip
        self._stop_if_nonfinite()

    def _stop_if_nonfinite(self) -> None:
        """The weights are those before the first of these updates, so what is saved stays sound."""
        in_a_row = int(self._nonfinite_in_a_row)
        if in_a_row < self.config.training.max_consecutive_nonfinite_updates:
            return
        batches, loss = self._latest
        pairs = ", ".join(str(i) for batch in batches for i in batch.indices[:3].tolist())
        found = self.ranks.gather((bool(loss.isfinite()), pairs))
        places = [f"rank {rank} (training pairs {pairs} …)" for rank, (sound, pairs) in enumerate(found) if not sound]
        self.ranks.fail(
            TrainingDivergedError(
                f"update {self.progress.update}, {', '.join(places) or 'all ranks'}: loss or gradients were not finite "
                f"for {in_a_row} updates in a row (training.max_consecutive_nonfinite_updates); lower "
                "training.learning_rate, raise training.warmup_updates, or set training.max_grad_norm"
            )
        )

    def _validate(self) -> bool:
        """Measure the development set; true when it is the best so far, and to be kept."""
        settings, progress = self.config.training, self.progress
        with self._autocast():
            result = self.validator.measure(self.model)
        score = result.bleu if settings.checkpoint_metric == "bleu" else -result.loss
        self._score = None if score is None else finite(score)
        is_best = self._score is not None and (progress.best_score is None or self._score > progress.best_score)
        progress.best_score = self._score if is_best else progress.best_score
        progress.without_best = 0 if is_best else progress.without_best + 1
        progress.validated = progress.update
        if self.monitor:
            self.monitor.record("validation", progress.update, result.values())
            self.monitor.samples(progress.update, *result.samples)
            log.info("update %6d  %s%s", progress.update, result.line(), "  (best so far)" if is_best else "")
        return is_best and settings.keep_best_checkpoints > 0

    def _save(self) -> None:
        """Write a checkpoint from the main rank. What cannot be written is warned of: training goes on."""
        window = self.window.state(self.ranks)
        self._unsaved = not self.ranks.on_main(lambda: self._write(window))

    def _write(self, window: Tensor) -> bool:
        training: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "window": window,
            "nonfinite_in_a_row": self._nonfinite_in_a_row,
        }
        return self.keeper.save(
            update=self.progress.update,
            score=self._score,
            tensors={"model": self.model.state_dict(), "training": training},
            state={
                "progress": self.progress.as_values(),
                "vocabulary": self.vocabularies.fingerprint,
                "corpus": self.corpus.fingerprint,
            },
        )

    def _load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint. Raises CheckpointError when it belongs to other data."""
        state = load_state(checkpoint)
        for name, present in (("vocabulary", self.vocabularies.fingerprint), ("corpus", self.corpus.fingerprint)):
            if state[name] != present:
                raise CheckpointError(
                    f"{checkpoint}: was trained on another {name} than is prepared now; "
                    "prepare the data as it was, or choose another run directory"
                )
        load_weights(self.model, checkpoint)
        training = load_tensors(checkpoint, "training", device=self.ranks.device)
        self.optimizer.load_state_dict(training["optimizer"])
        self.scaler.load_state_dict(training["scaler"])
        if "window" in training:  # the first checkpoints had none
            self.window.restore(training["window"].cpu(), self.ranks)
            self._nonfinite_in_a_row = training["nonfinite_in_a_row"]
        self.progress = Progress.from_values(state["progress"])
        log.info("continuing %s from update %d", self.run_directory.path, self.progress.update)

    def _start_from(self, other: RunDirectory) -> None:
        """Fine-tuning: take another run's weights. Raises CheckpointError when vocabulary or shapes differ."""
        try:
            other.config()  # is it a run at all?
            if other.load_tokenizers().fingerprint != self.vocabularies.fingerprint:
                raise CheckpointError(
                    f"{other.path} has another vocabulary than the prepared data; its sub-words would mean something "
                    "else here"
                )
            checkpoint = other.load_weights_into(self.model)
        except UserError as error:
            raise CheckpointError(f"training.initialize_from: {error}") from error
        log.info("starting from the weights of %s", checkpoint)


def _mixed(*numbers: int) -> int:
    """A seed made of numbers of any size. PyTorch's CPU generator looks at the lowest 32 bits of a seed only."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
