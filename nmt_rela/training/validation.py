"""Quality of a model on the development set: loss, perplexity, scores of beam search, attention sparsity."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch

from nmt_rela.config.schema import Config, MetricName
from nmt_rela.data.batch_plan import Pairs, cut_update, plan_epoch
from nmt_rela.data.data_loader import collate
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.languages import writing_system
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.generation.options import TranslationOptions
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics.attention_sparsity import attention_sparsity
from nmt_rela.metrics.translation import LABELS, compute_scores, format_score
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.objective import TranslationObjective
from nmt_rela.utils.errors import CheckpointError
from nmt_rela.utils.text import read_parallel

LOG = logging.getLogger(__name__)

#: Padded tokens of the longer side in one batch.
_BATCH_TOKENS = 4_096
#: Padded tokens, both sides, of the batch whose attention sparsity is measured.
_SPARSITY_TOKENS = 4_096
_NUM_SAMPLES = 5


class ValidationResult(NamedTuple):
    """``metrics``: ``loss`` in nats per target token, ``perplexity``, and rates as ``attention_sparsity`` names them.

    The metrics of the settings and ``length_ratio`` (words of the translations divided by words of the references) are
    there if something was translated.
    """

    metrics: dict[str, float]
    #: A few sources, translations and references.
    samples: tuple[list[str], list[str], list[str]]

    def summary(self) -> str:
        """The numbers as one line, for the log."""
        parts = ["development: loss {loss:.4f}", "perplexity {perplexity:.2f}"]
        parts += [
            f"{label} {format_score(name, self.metrics)}" for name, label in LABELS.items() if name in self.metrics
        ]
        parts += ["length {length_ratio:.2f}"] * ("length_ratio" in self.metrics)
        return "  ".join(parts).format(**self.metrics)


def validation_metrics(config: Config) -> list[MetricName]:
    """The metrics of translations that validation computes."""
    if config.training.validation_decode_sentences == 0:
        return []
    wanted = [*config.evaluation.metrics, config.training.checkpoint_metric]
    return [name for name in dict.fromkeys(wanted) if name != "loss"]


class Validator:
    """Validates a model on the development set, which is divided among the ranks."""

    def __init__(
        self, config: Config, data: PreparedData, tokenizers: TokenizerPair, context: DistributedContext
    ) -> None:
        self._config, self._context, self._tokenizers = config, context, tokenizers
        self._dataset = ParallelDataset(data.dev_binary, tokenizers)
        limit = config.training.validation_decode_sentences
        pairs = read_parallel(data.dev.source, data.dev.target)
        self._pairs = list(islice(pairs, None if limit < 0 else limit))
        self._evaluation = replace(config.evaluation, metrics=tuple(validation_metrics(config)))
        self._bleu_tokenizer = data.dev.bleu_tokenizer
        self._plan = plan_epoch(
            self._dataset.source_lengths, self._dataset.target_lengths, update_tokens=_BATCH_TOKENS, seed=0, epoch=0
        )

    def validate(self, model: Transformer, *, max_batch_tokens: int) -> ValidationResult:
        """Loss and scores of the model, which stays in evaluation mode. All ranks must call it."""
        model.eval()
        loss, nll = self._losses(model, max_batch_tokens)
        sources, references = [source for source, _ in self._pairs], [target for _, target in self._pairs]
        outputs = self._translate(model, sources)
        metrics = {"loss": loss, "perplexity": math.exp(min(nll, 100.0))}
        if outputs:
            scores = self._context.run_on_main(lambda: self._score(sources, outputs, references))
            metrics |= {name: scores[name] for name in (*self._evaluation.metrics, "length_ratio")}
        first = self._micro_batches(0, _SPARSITY_TOKENS)[0]
        metrics |= attention_sparsity(model, collate(self._dataset, first).to(self._context.device))
        shown = min(_NUM_SAMPLES, len(outputs))
        return ValidationResult(metrics, (sources[:shown], outputs[:shown], references[:shown]))

    def _score(self, sources: list[str], outputs: list[str], references: list[str]) -> dict[str, Any]:
        return compute_scores(
            outputs,
            references,
            self._evaluation,
            tokenizer=self._bleu_tokenizer,
            sources=sources,
            device=self._context.device,
        )

    def _translate(self, model: Transformer, sources: list[str]) -> list[str]:
        """The translations of all ranks, or none where the model's predictions are not finite."""
        context = self._context
        translator = Translator(
            model,
            self._tokenizers,
            options=TranslationOptions.from_config(self._config.decoding),
            device=context.device,
            max_source_length=self._config.data.max_length,
            sentence_joiner=writing_system(self._config.data.target_language).sentence_joiner,
        )
        outputs: list[str] | None
        try:
            own = sources[context.rank :: context.world_size]
            outputs = [translation.text for translation in translator.translate(own)]
        except CheckpointError as error:
            LOG.warning("the development set cannot be translated: %s", error)
            outputs = None
        by_rank = context.all_gather_object(outputs)
        if any(found is None for found in by_rank):
            return []
        return [by_rank[index % context.world_size][index // context.world_size] for index in range(len(sources))]

    @torch.no_grad()
    def _losses(self, model: Transformer, max_batch_tokens: int) -> tuple[float, float]:
        """Smoothed loss and negative log-likelihood over all ranks, in nats per target token."""
        context = self._context
        objective = TranslationObjective(model, label_smoothing=self._config.training.label_smoothing).eval()
        sums = torch.zeros(3, dtype=torch.float64, device=context.device)
        for number in range(context.rank, self._plan.num_updates, context.world_size):
            for pairs in self._micro_batches(number, max_batch_tokens):
                batch = collate(self._dataset, pairs)
                loss, nll, _ = objective(batch.to(context.device))
                sums += torch.stack([loss.double(), nll, torch.full_like(nll, batch.target_tokens)])
        loss_sum, nll_sum, tokens = map(sum, zip(*context.all_gather_object(sums.tolist()), strict=True))
        return loss_sum / tokens, nll_sum / tokens

    def _micro_batches(self, number: int, max_batch_tokens: int) -> list[Pairs]:
        lengths = (self._dataset.source_lengths, self._dataset.target_lengths)
        (parts,) = cut_update(self._plan.pairs(number), *lengths, max_batch_tokens=max_batch_tokens)
        return [part.pairs for part in parts]
