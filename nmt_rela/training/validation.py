"""How good the model is on the development set: loss, perplexity and BLEU of a real beam search."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from nmt_rela.config.schema import Config
from nmt_rela.data.batch_plan import plan_epoch
from nmt_rela.data.data_loader import collate
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import PAD, TokenizerPair
from nmt_rela.generation.options import TranslationOptions
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics import bleu
from nmt_rela.metrics.attention_sparsity import attention_sparsity
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.training.loss import fused_linear_cross_entropy
from nmt_rela.utils.errors import CheckpointError
from nmt_rela.utils.text import read_parallel

log = logging.getLogger("nmt_rela.training")

_SAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """One measurement. Losses are nats a target token; BLEU, chrF and the length ratio are None where nothing was
    translated.
    """

    loss: float
    perplexity: float
    bleu: float | None
    chrf: float | None
    #: Words of the translations over words of the references.
    length_ratio: float | None
    #: How sparse each attention site is, as ``attention_sparsity`` names it.
    attention: dict[str, float]
    #: A few sources, outputs and references.
    samples: tuple[list[str], list[str], list[str]]

    def values(self) -> dict[str, float]:
        """The numbers, for the records."""
        named = {
            "loss": self.loss, "perplexity": self.perplexity, "bleu": self.bleu, "chrf": self.chrf,
            "length_ratio": self.length_ratio,
        }  # fmt: skip
        return {name: value for name, value in named.items() if value is not None} | self.attention

    def line(self) -> str:
        """The numbers, for the log."""
        scores = (
            "" if self.bleu is None else f"  BLEU {self.bleu:.2f}  chrF {self.chrf:.2f}  length {self.length_ratio:.2f}"
        )
        return f"development: loss {self.loss:.4f}  perplexity {self.perplexity:.2f}{scores}"


class Validator:
    """Measures a model on the development set, of which every rank takes a share."""

    def __init__(
        self, config: Config, data: PreparedData, vocabularies: TokenizerPair, ranks: DistributedContext
    ) -> None:
        self._config, self._ranks, self._vocabularies = config, ranks, vocabularies
        self._corpus = ParallelDataset(data.dev_binary)
        limit = config.training.validation_decode_sentences
        pairs = read_parallel(data.dev.source, data.dev.target)
        self._pairs = list(islice(pairs, None if limit < 0 else limit))
        self._tokenizer = data.dev.bleu_tokenizer
        self._plan = plan_epoch(
            self._corpus.source_lengths,
            self._corpus.target_lengths,
            batch_tokens=config.training.batch_tokens,
            accumulate=1,
            seed=0,
            epoch=0,
        )

    def measure(self, model: Transformer) -> Validation:
        """Loss and BLEU of the model, which is left in evaluation mode."""
        model.eval()
        loss, likelihood = self._losses(model)
        sources, references = [s for s, _ in self._pairs], [t for _, t in self._pairs]
        outputs = self._translate(model, sources)
        scores = bleu.compute_scores(outputs, references, tokenizer=self._tokenizer) if outputs else None
        return Validation(
            loss=loss,
            perplexity=math.exp(min(likelihood, 100.0)),
            bleu=None if scores is None else scores.bleu,
            chrf=None if scores is None else scores.chrf,
            length_ratio=None if scores is None else scores.length_ratio,
            attention=attention_sparsity(model, collate(self._corpus, self._plan.batch(0)).to(self._ranks.device)),
            samples=(sources[:_SAMPLES], outputs[:_SAMPLES], references[:_SAMPLES]) if outputs else ([], [], []),
        )

    def _translate(self, model: Transformer, sources: list[str]) -> list[str]:
        """Every rank's share of the translations, put together on all ranks; none where the model predicts no finite
        numbers.
        """
        ranks = self._ranks
        translator = Translator(
            model,
            self._vocabularies,
            options=TranslationOptions.from_config(self._config.decoding),
            device=ranks.device,
            max_source_length=self._config.data.max_length,
        )
        outputs: list[str] | None
        try:
            outputs = [translation.text for translation in translator.translate(sources[ranks.rank :: ranks.size])]
        except CheckpointError as error:
            log.warning("the development set cannot be translated: %s", error)
            outputs = None
        shares = ranks.gather(outputs)
        if any(share is None for share in shares):
            return []
        return [shares[index % ranks.size][index // ranks.size] for index in range(len(sources))]

    @torch.no_grad()
    def _losses(self, model: Transformer) -> tuple[float, float]:
        """Smoothed loss and negative log-likelihood, nats a token, over all ranks."""
        sums = torch.zeros(3, dtype=torch.float64, device=self._ranks.device)
        for index in range(self._ranks.rank, self._plan.batches, self._ranks.size):
            batch = collate(self._corpus, self._plan.batch(index)).to(self._ranks.device)
            states = model.decode(model.shift_right(batch.target), model.encode(batch.source))
            present: Tensor = batch.target != PAD
            loss, likelihood = fused_linear_cross_entropy(
                states[present],
                model.output_embedding,
                batch.target[present],
                smoothing=self._config.training.label_smoothing,
            )
            sums += torch.stack([loss.double(), likelihood, present.sum().double()])
        loss_sum, likelihood_sum, tokens = map(sum, zip(*self._ranks.gather(sums.tolist()), strict=True))
        return loss_sum / tokens, likelihood_sum / tokens
