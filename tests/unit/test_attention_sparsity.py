"""Sparsity and null rate of a batch, counted again one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nmt_rela.data.data_loader import Batch
from nmt_rela.metrics.attention_sparsity import attention_sparsity
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer


@pytest.mark.parametrize("variant", ["softmax", "sparsemax", "rela-g"])
def test_sparsity_and_null_rate_equal_counts_over_valid_positions(variant: str) -> None:
    torch.manual_seed(2)
    model = Transformer(
        20, 20, attention=variant, encoder_layers=1, decoder_layers=2, d_model=16, ffn_dim=16, num_heads=4
    )
    model.eval()
    source = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0]])
    target = torch.tensor([[8, 9, 2], [8, 2, 0]])
    batch = Batch(
        source=source, target=target, target_positions=target.flatten().nonzero()[:, 0], indices=np.arange(2),
        source_tokens=6, target_tokens=5,
    )  # fmt: skip
    actual = attention_sparsity(model, batch)

    seen: dict[str, list[torch.Tensor]] = {site: [] for site in ATTENTION_SITES}
    for (site, _), module in model.attention_modules().items():
        assert not module.hook_pattern.is_active
        module.hook_pattern.register_forward_hook(
            lambda _module, _inputs, weights, site=site: seen[site].append(weights)
        )
    model(source, model.shift_right(target))
    for site in ATTENTION_SITES:
        queries, keys = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}[site]
        zeros = weights = nulls = rows = 0
        for tensor in seen[site]:
            for sentence, head, query in np.ndindex(*tensor.shape[:3]):
                if queries[sentence, query] == 0:
                    continue
                row = [
                    float(tensor[sentence, head, query, key])
                    for key in range(tensor.shape[3])
                    if keys[sentence, key] != 0 and (site != "decoder" or key <= query)
                ]
                zeros, weights = zeros + row.count(0.0), weights + len(row)
                nulls, rows = nulls + (not any(row)), rows + 1
        assert actual[f"sparsity_{site}"] == pytest.approx(zeros / weights)
        assert actual[f"null_{site}"] == pytest.approx(nulls / rows)
    if variant == "softmax":
        assert set(actual.values()) == {0.0}
