"""The training objective: label-smoothed cross-entropy of a batch. It is what DistributedDataParallel wraps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.cross_entropy import fused_linear_cross_entropy


class TranslationObjective(nn.Module):
    """Summed loss of a batch under a model, for training and validation.

    Args:
        model: the Transformer.
        label_smoothing: probability taken from the right token and spread evenly over the others.
        normalization: ``tokens``: the loss sums over target tokens; ``sentences``: over sentences, each with the mean
            of its tokens. The caller divides by the number of tokens or sentences of the whole update.
    """

    def __init__(
        self, model: Transformer, *, label_smoothing: float, normalization: Literal["tokens", "sentences"] = "tokens"
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing, self.normalization = label_smoothing, normalization

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss and the plain negative log-likelihood of the references, both summed, in nats.

        The batch is on the model's device. A batch without sentences has a loss of 0 that depends on all parameters, so
        that a rank without pairs takes part in the gradient reduction.
        """
        if len(batch.indices) == 0:
            zero = torch.stack([parameter.flatten()[:0].sum() for parameter in self.model.parameters()]).sum().float()
            return zero, zero.detach().double()
        model = self.model
        # [sentences, target length, d_model]
        hidden_states = model.decode(model.shift_right(batch.target), model.encode(batch.source))
        token_weights = None
        if self.normalization == "sentences":
            lengths = (batch.target != PAD).sum(dim=1)
            rows = batch.target_positions // batch.target.shape[1]
            token_weights = lengths.float().reciprocal()[rows]
        return fused_linear_cross_entropy(
            hidden_states.flatten(0, 1).index_select(0, batch.target_positions),
            model.output_embedding,
            batch.target.flatten().index_select(0, batch.target_positions),
            label_smoothing=self.label_smoothing,
            bias=model.output_bias,
            token_weights=token_weights,
        )
