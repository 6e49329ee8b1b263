"""The training objective against its definition; the conditions under which DistributedDataParallel reduces it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.data.data_loader import Batch, pad_sequences
from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.objective import TranslationObjective

VOCABULARY = 19
SOURCES, TARGETS = [[5, 6, 7, 2], [8, 2], [9, 10, 2]], [[11, 2], [12, 13, 14, 15, 2], [16, 2]]


def model(**options: Any) -> Transformer:
    torch.manual_seed(1)
    size = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "ffn_dim": 16, "num_heads": 2}
    return Transformer(VOCABULARY, VOCABULARY, **{**size, "dropout": 0.0, "attention_dropout": 0.0, **options})


def batch(sources: Sequence[list[int]], targets: Sequence[list[int]]) -> Batch:
    source, target = pad_sequences(sources), pad_sequences(targets)
    return Batch(
        source=source,
        target=target,
        target_positions=(target.flatten() != PAD).nonzero()[:, 0],
        indices=np.arange(len(sources)),
        source_tokens=sum(map(len, sources)),
        target_tokens=sum(map(len, targets)),
    )


@pytest.mark.parametrize("normalization", ["tokens", "sentences"])
def test_the_loss_is_the_sum_over_tokens_or_of_sentence_means(normalization: Literal["tokens", "sentences"]) -> None:
    transformer = model().eval()
    loss, nll, _ = TranslationObjective(transformer, label_smoothing=0.0, normalization=normalization)(
        batch(SOURCES, TARGETS)
    )
    sums = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        inputs = transformer.shift_right(torch.tensor([target]))
        log_probs = transformer(torch.tensor([source]), inputs).log_softmax(dim=-1)[0]
        sums.append(-log_probs[range(len(target)), target].sum())
    means = [total / len(target) for total, target in zip(sums, TARGETS, strict=True)]
    torch.testing.assert_close(loss, sum(sums if normalization == "tokens" else means, torch.zeros(())))
    torch.testing.assert_close(nll.float(), sum(sums, torch.zeros(())))


@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
@pytest.mark.parametrize("tied", ["none", "target", "all"])
@pytest.mark.parametrize("start", ["bos", "zero"])
@pytest.mark.parametrize("pairs", [0, 1, 3])
def test_every_parameter_takes_part_in_every_pass(attention: str, tied: str, start: str, pairs: int) -> None:
    """DistributedDataParallel waits for all of them; the shortest pair and no pair at all are passes too."""
    transformer = model(attention=attention, tied_embeddings=tied, decoder_start=start, embedding_bias=True)
    data = batch([[2]], [[2]]) if pairs == 1 else batch(SOURCES[:pairs], TARGETS[:pairs])
    loss, *_ = TranslationObjective(transformer, label_smoothing=0.1)(data)
    loss.backward()
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None, name
        assert pairs or not parameter.grad.any()
    assert pairs or loss == 0
