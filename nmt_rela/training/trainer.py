"""The training loop: plan and micro-batches (data/batch_plan.py) → update; validation and checkpoints when due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_state, load_tensors, rank_by_score
from nmt_rela.checkpoints.manager import CheckpointManager
from nmt_rela.checkpoints.run_directory import RunDirectory, build_model, load_weights, settings_to_record
from nmt_rela.config.schema import Config
from nmt_rela.data.batch_plan import BatchPlan
from nmt_rela.data.data_loader import Batch, collate, iterate_updates
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.metrics.translation import ranking_score
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.device_settings import resolve_max_batch_tokens, resolve_precision
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.guided_alignment import GuidedHeads
from nmt_rela.training.metric_logger import MetricLogger, finite_or_none
from nmt_rela.training.objective import TranslationObjective
from nmt_rela.training.optimizer import (
    build_optimizer,
    learning_rate,
    load_optimizer_state,
    step_unless_nonfinite,
)
from nmt_rela.training.out_of_memory import batch_too_large, memory_errors, model_too_large
from nmt_rela.training.profiling import profile_steps
from nmt_rela.training.step_metrics import StepMetrics
from nmt_rela.training.trainer_state import TrainerState
from nmt_rela.training.training_corpus import StopRequestedError, TrainingCorpus
from nmt_rela.training.training_progress import TrainingProgress
from nmt_rela.training.validation import Validator
from nmt_rela.training.weight_average import WeightAverage
from nmt_rela.utils.errors import CheckpointError, UserError, first_line
from nmt_rela.utils.memory import trim_malloc

LOG = logging.getLogger(__name__)


class TrainingDivergedError(UserError):
    """Loss or gradients were not finite for too many consecutive updates."""


class Trainer:
    """One run on one rank."""

    def __init__(
        self,
        config: Config,
        *,
        data: PreparedData,
        run: RunDirectory,
        context: DistributedContext,
        resume: Path | None,
    ) -> None:
        """Build all components. No communication happens here. ``resume`` is the checkpoint to continue from.

        Raises ConfigError for what this machine cannot do, CheckpointError for weights that do not fit.
        """
        self.config, self.run_directory, self.context = config, run, context
        settings = config.training
        self.tokenizers = TokenizerPair.load(data.tokenizer)
        self.corpus = TrainingCorpus(config, data, self.tokenizers, run=run, context=context)
        torch.manual_seed(_derive_seed(settings.seed))
        self.model = build_model(config.model, self.tokenizers).to(context.device)
        guided = settings.guided_alignment
        self.objective: torch.nn.Module = TranslationObjective(
            self.model,
            label_smoothing=settings.label_smoothing,
            normalization=settings.loss_normalization,
            guided=GuidedHeads(guided.layer_of(config.model.decoder_layers), guided.heads) if guided.weight else None,
        )
        self.parameters = list(self.model.parameters())
        self.optimizer = build_optimizer(self.parameters, settings)
        self.precision = resolve_precision(settings.precision, context.device)
        self.max_batch_tokens = resolve_max_batch_tokens(settings.max_batch_tokens, context.device, config.model)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=self.precision is torch.float16)
        self.state = TrainerState()
        self.checkpoints = CheckpointManager(run, settings)
        self.metrics = StepMetrics(context.device, loss_normalization=settings.loss_normalization)
        self._consecutive_nonfinite = torch.zeros((), device=context.device)
        #: The micro-batch of a rank without pairs, because all ranks must take part in the reduction.
        self._empty_batch = collate(self.corpus.base, np.empty(0, dtype=np.int64))
        self._no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
        # This rank's micro-batches of the latest update, and their loss.
        self._last_batches: tuple[list[Batch], Tensor] = ([], torch.zeros(()))
        # The results of the validation after the latest update.
        self._validation: dict[str, float | None] | None = None
        self._has_unsaved_update = False
        self.average = WeightAverage(self.model, settings.ema_decay) if settings.ema_decay else None
        if resume is not None:
            self._resume(resume)
        elif settings.initialize_from:
            self._initialize_from(RunDirectory(settings.initialize_from))
        self.validator = Validator(config, data, self.tokenizers, context)
        self.logger: MetricLogger | None = None
        self.progress = TrainingProgress(config.training, self.state)

    def run(self, *, stop_requested: Callable[[], bool]) -> bool:
        """Train to the end, or until a stop is requested; whether the end is reached. The last update is saved.

        Raises TrainingDivergedError; CheckpointError when the last update cannot be saved.
        """
        settings, state, context = self.config.training, self.state, self.context
        if context.is_main_process:
            self.logger = MetricLogger(
                self.run_directory, update=state.update, validated=state.last_validated_update,
                elapsed=lambda: self.progress.elapsed,
            )  # fmt: skip
        try:
            self._start_communication()
            self._run_missed_validation()
            stopping = False
            with (
                profile_steps(self.run_directory, settings.profile_updates, state.update, context) as end_of_step,
                self.progress,
            ):
                while not stopping and not self._is_finished():
                    try:
                        plan = self.corpus.plan(state.epoch, stop_requested=stop_requested)
                    except StopRequestedError:
                        break
                    if state.next_update_in_epoch >= plan.num_updates:
                        raise CheckpointError(
                            f"{self.run_directory.path}: the newest checkpoint is at update "
                            f"{state.next_update_in_epoch} of an epoch of {plan.num_updates}; delete it to continue"
                        )
                    self.progress.begin_epoch(plan.num_updates)
                    if self.logger and state.next_update_in_epoch == 0:
                        self.logger.log("epoch", state.update, {"epoch": state.epoch, **self.corpus.metrics()})
                    updates = self.updates(plan)
                    self.metrics.reset_timer()
                    for batches in self.metrics.time_data_loading(updates):
                        self.train_step(batches, plan)
                        stopping = context.any_rank(stop_requested() or self.progress.is_out_of_time)
                        self._post_step(stopping=stopping)
                        end_of_step()
                        if stopping or self._is_finished():
                            break
                    updates.close()
            if self._has_unsaved_update:
                self._save()
            if self._has_unsaved_update:
                context.raise_on_all_ranks(
                    CheckpointError(f"{self.run_directory.checkpoints}: update {state.update} is not saved")
                )
        finally:
            self.corpus.close(is_finished=self._is_finished() and not self._has_unsaved_update)
            if self.logger:
                self.logger.close()
        return self._is_finished()

    def train_step(self, batches: list[Batch], plan: BatchPlan) -> None:
        """One update from this rank's micro-batches. Nothing in it synchronizes with the device."""
        settings, state, context = self.config.training, self.state, self.context
        self.objective.train()
        pairs = plan.pairs(state.next_update_in_epoch)  # those of all ranks
        target_tokens = int(self.corpus.dataset.target_lengths[pairs].sum())
        normalizer = target_tokens if settings.loss_normalization == "tokens" else len(pairs)
        loss_sum = torch.zeros((), device=context.device)
        passes = batches or [self._empty_batch]
        # One context for all micro-batches: weights are converted once.
        with context.communication_errors(), self._autocast():
            for batch in passes:
                # Dropout is keyed by seed, update and micro-batch, so an exact resume needs no random state.
                torch.manual_seed(_derive_seed(settings.seed, state.update, batch.number))
                # The backward pass of the last micro-batch sums the gradients over the ranks.
                too_large = partial(batch_too_large, batch, self.max_batch_tokens, context.device)
                with memory_errors(too_large), nullcontext() if batch is passes[-1] else self._no_sync():
                    loss, nll, alignment = self.objective(batch.to(context.device))
                    total = loss + settings.guided_alignment.weight * alignment
                    with torch.autocast(context.device.type, enabled=False):
                        self.scaler.scale(total / normalizer).backward()
                self.metrics.update(loss.detach(), nll, batch, alignment.detach())
                loss_sum += total.detach()
        with memory_errors(partial(model_too_large, self.model, context.device)):
            self.scaler.unscale_(self.optimizer)
            norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            if settings.max_grad_norm:
                clip_grads_with_norm_(self.parameters, settings.max_grad_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(settings, state.update + 1, d_model=self.config.model.d_model)
            skipped = step_unless_nonfinite(self.optimizer, self.scaler, norm)
            if self.average:
                self.average.update(self.model, state.update + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self._consecutive_nonfinite = (self._consecutive_nonfinite + skipped) * skipped
        self._last_batches = (batches, loss_sum)
        self.metrics.end_step(norm, skipped)
        self._has_unsaved_update = True
        state.update += 1
        state.next_update_in_epoch += 1
        state.target_tokens += target_tokens
        if state.next_update_in_epoch == plan.num_updates:
            state.epoch, state.next_update_in_epoch = state.epoch + 1, 0

    def _start_communication(self) -> None:
        """The first messages among the ranks: their micro-batch size and the parameters of the main rank."""
        context = self.context
        # The devices may differ, but all ranks must cut an update in the same way.
        self.max_batch_tokens = min(context.all_gather_object(self.max_batch_tokens))
        LOG.info(
            "%s parameters, %s pairs, %s on %s rank(s) of %s, at most %s tokens per micro-batch, from update %s",
            f"{sum(p.numel() for p in self.parameters):,}", f"{len(self.corpus.base):,}",
            str(self.precision).removeprefix("torch."), context.world_size, context.device.type,
            f"{self.max_batch_tokens:,}", f"{self.state.update:,}",
        )  # fmt: skip
        if context.world_size > 1:
            wrapped = context.data_parallel(self.objective)
            self.objective, self._no_sync = wrapped, wrapped.no_sync
            # torch orders its buckets anew after the first backward pass. A pass without pairs fixes their order, so
            # that a continued run adds numbers in the same order as one that never stopped.
            with context.communication_errors():
                self.objective(self._empty_batch.to(context.device))[0].backward()
            self.optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.context.device.type, dtype=self.precision, enabled=self.precision is not torch.float32
        )

    def updates(self, plan: BatchPlan) -> Generator[list[Batch], None, None]:
        """This rank's micro-batches of the rest of the epoch."""
        return iterate_updates(
            self.corpus.dataset,
            plan,
            max_batch_tokens=self.max_batch_tokens,
            rank=self.context.rank,
            world_size=self.context.world_size,
            first_update=self.state.next_update_in_epoch,
            pin=self.context.device.type == "cuda",
            find_links=self.corpus.links,
        )

    @property
    def _evaluated_model(self) -> Transformer:
        """The model that is validated and that checkpoints are for: the average, where there is one."""
        return self.average.model if self.average else self.model

    def _is_finished(self) -> bool:
        return self.state.is_finished(self.config.training)

    def _post_step(self, *, stopping: bool) -> None:
        """Log, validate and save where they are due."""
        settings, update = self.config.training, self.state.update
        self._validation = None
        validate = self._is_validation_due()
        save = update % settings.save_every == 0 or validate
        if update % settings.log_every == 0 or save:
            self._log()
        elif self.progress.is_early_line_due:
            self.progress.show(self.metrics.compute(self.context))
        self.progress.advance()
        if stopping:  # at once: ``run`` saves, and a missed validation is run when the run continues
            return
        if save:
            self._save()
        if validate:  # it may fail, so the update is saved before, and again with its score
            self._validate()
            self._save()
            self.metrics.reset_timer()
        if save:
            trim_malloc()

    def _run_missed_validation(self) -> None:
        """Run the validation that was skipped because a stop was requested."""
        if self.state.last_validated_update < self.state.update and self._is_validation_due():
            self._log()
            self._validate()
            self._save()

    def _is_validation_due(self) -> bool:
        return self.state.update % self.config.training.validate_every == 0 or self._is_finished()

    def _log(self) -> None:
        if self.metrics.updates == 0:
            return
        values = self.metrics.compute(self.context)
        self.metrics.reset()
        update = self.state.update
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        values["epoch"] = self.state.epoch
        # After the reduction all ranks have the same gradients, and must have made the same weights of them.
        weights_norm = float(get_total_norm(self.parameters)) if self.context.world_size > 1 else 0.0
        if self.context.has_diverged(values["gradient_norm"]) or self.context.has_diverged(weights_norm):
            self.context.raise_on_all_ranks(
                RuntimeError(f"update {update}: the ranks have diverged: gradients or weights differ")
            )
        if self.logger:
            self.logger.log("train", update, values)
            self.progress.show(values)
        self._stop_if_nonfinite()

    def _stop_if_nonfinite(self) -> None:
        """Raise after too many non-finite updates. They were skipped, so the weights to save are those before them."""
        count = int(self._consecutive_nonfinite)
        if count < self.config.training.max_consecutive_nonfinite_updates:
            return
        batches, loss = self._last_batches
        pairs = ", ".join(str(i) for batch in batches for i in batch.indices[:3].tolist())
        by_rank = self.context.all_gather_object((bool(loss.isfinite()), pairs))
        where = [f"rank {rank} (training pairs {pairs} …)" for rank, (ok, pairs) in enumerate(by_rank) if not ok]
        self.context.raise_on_all_ranks(
            TrainingDivergedError(
                f"update {self.state.update}, {', '.join(where) or 'all ranks'}: loss or gradients were not finite for "
                f"{count} consecutive updates (training.max_consecutive_nonfinite_updates); lower "
                "training.learning_rate, raise training.warmup_updates, or set training.max_grad_norm"
            )
        )

    def _validate(self) -> None:
        """Measure the model on the development set, and count validations without improvement."""
        metric, state = self.config.training.checkpoint_metric, self.state
        with self._autocast():
            result = self.validator.validate(self._evaluated_model, max_batch_tokens=self.max_batch_tokens)
        metrics = result.metrics
        self._validation = {name: finite_or_none(value) for name, value in metrics.items()}
        is_best = state.record_validation(ranking_score(metric, metrics.get(metric)))
        if self.logger:
            self.logger.log("validation", state.update, metrics)
            self.logger.log_samples(state.update, *result.samples)
            self.logger.draw_curve()
            LOG.info("update %s  %s%s", f"{state.update:,}", result.summary(), "  (best so far)" if is_best else "")

    def _save(self) -> None:
        """Write a checkpoint from the main rank. A failed write causes a warning, and training continues."""
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "consecutive_nonfinite": self._consecutive_nonfinite,
            "metrics": self.metrics.state_dict(self.context),
            **({"weights": self.model.state_dict()} if self.average else {}),
        }
        self.state.elapsed = round(self.progress.elapsed, 3)
        self._has_unsaved_update = not self.context.run_on_main(
            lambda: self.checkpoints.save(
                update=self.state.update,
                validation=self._validation,
                tensors={"model": self._evaluated_model.state_dict(), "training": training},
                state={
                    "progress": asdict(self.state),
                    "checkpoint_metric": self.config.training.checkpoint_metric,
                    "vocabulary": self.tokenizers.fingerprint,
                    "corpus": self.corpus.base.fingerprint,
                    **({"alignment": self.corpus.links.fingerprint} if self.corpus.links else {}),
                    "config": settings_to_record(self.config),
                },
            )
        )

    def _resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint. Raises CheckpointError when it does not fit."""
        state = load_state(checkpoint)
        load_weights(self._evaluated_model, checkpoint)
        training = load_tensors(checkpoint, "training", device=self.context.device)
        try:
            load_optimizer_state(self.optimizer, training["optimizer"])
            self.scaler.load_state_dict(training["scaler"])
            if self.average:
                self.model.load_state_dict(training["weights"])
            self._consecutive_nonfinite = training["consecutive_nonfinite"].reshape(()).float()
            self.metrics.load_state_dict(training["metrics"].cpu(), self.context)
            self.state = TrainerState.from_checkpoint(state["progress"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint}: no state of training that fits: {first_line(error)}") from error
        LOG.info("continuing %s from update %s", self.run_directory.path, f"{self.state.update:,}")
        metric = self.config.training.checkpoint_metric
        if state.get("checkpoint_metric", metric) != metric:
            # Patience begins anew, and the best of the checkpoints that are kept is the one to surpass.
            kept = [path for path in list_checkpoints(checkpoint.parent) if path.name <= checkpoint.name]
            ranked = rank_by_score(kept, metric)
            self.state.best_score = ranked[0][1] if ranked else None
            self.state.validations_since_best = 0
            best = f"so far {ranked[0][0].name}" if ranked else "known from the next validation on"
            LOG.info("the best checkpoint is that of training.checkpoint_metric: %s now, %s", metric, best)

    def _initialize_from(self, other: RunDirectory) -> None:
        """Fine-tuning: load another run's weights. Raises CheckpointError when vocabulary or shapes differ."""
        try:
            if other.load_tokenizers().fingerprint != self.tokenizers.fingerprint:
                raise CheckpointError(
                    f"{other.path} has another vocabulary than the prepared data, in which its ids mean other sub-words"
                )
            checkpoint = other.initialize(self.model, self.config.model)
            if self.average:
                self.average.model.load_state_dict(self.model.state_dict())
        except UserError as error:
            raise CheckpointError(f"training.initialize_from: {error}") from error
        LOG.info("starting from the weights of %s", checkpoint)


def _derive_seed(*numbers: int) -> int:
    """A seed from numbers of any size. PyTorch's CPU generator uses only the lowest 32 bits of a seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
