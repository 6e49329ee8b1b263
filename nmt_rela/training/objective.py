"""The training objective: label-smoothed cross-entropy of a batch, and the loss of guided alignment.

It is what DistributedDataParallel wraps.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.cross_entropy import fused_linear_cross_entropy
from nmt_rela.training.guided_alignment import GuidedHeads, alignment_loss, guided_scores


class TranslationObjective(nn.Module):
    """Summed loss of a batch under a model, for training and validation.

    Args:
        model: the Transformer.
        label_smoothing: probability taken from the right token and spread evenly over the others.
        normalization: ``tokens``: the loss sums over target tokens; ``sentences``: over sentences, each with the mean
            of its tokens. The caller divides by the number of tokens or sentences of the whole update.
        guided: the heads that learn the links of a batch, where it has any.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        label_smoothing: float,
        normalization: Literal["tokens", "sentences"] = "tokens",
        guided: GuidedHeads | None = None,
    ) -> None:
        super().__init__()
        self.model, self.guided = model, guided
        self.label_smoothing, self.normalization = label_smoothing, normalization

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the plain negative log-likelihood of the references, and the alignment loss; summed, in nats.

        The alignment loss, of `alignment_loss`, is 0 without links. The batch is on the model's device. A batch without
        sentences has a loss of 0 that depends on all parameters, so that a rank without pairs takes part in the
        gradient reduction.
        """
        if len(batch.indices) == 0:
            zero = torch.stack([parameter.flatten()[:0].sum() for parameter in self.model.parameters()]).sum().float()
            return zero, zero.detach().double(), zero.detach()
        model = self.model
        scores: list[Tensor] = []
        links = None if self.guided is None else batch.links
        with ExitStack() as hooks:
            if self.guided is not None and links is not None:
                attention = model.attention_modules()["cross", self.guided.layer]
                hooks.enter_context(guided_scores(attention, self.guided.heads, scores))
            # [sentences, target length, d_model]
            hidden_states = model.decode(model.shift_right(batch.target), model.encode(batch.source))
        token_weights = sentence_weights = None
        if self.normalization == "sentences":
            sentence_weights = (batch.target != PAD).sum(dim=1).float().reciprocal()
            token_weights = sentence_weights[batch.target_positions // batch.target.shape[1]]
        loss, nll = fused_linear_cross_entropy(
            hidden_states.flatten(0, 1).index_select(0, batch.target_positions),
            model.output_embedding,
            batch.target.flatten().index_select(0, batch.target_positions),
            label_smoothing=self.label_smoothing,
            bias=model.output_bias,
            token_weights=token_weights,
        )
        if links is None:
            return loss, nll, torch.zeros_like(loss)
        weight_fn = ATTENTION_VARIANTS[attention.variant].weight_fn
        with torch.autocast(loss.device.type, enabled=False):
            return loss, nll, alignment_loss(weight_fn, scores[0], links, sentence_weights=sentence_weights)
