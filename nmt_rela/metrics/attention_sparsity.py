"""How sparse each attention site is on one batch, for the records of a run. ``analysis`` looks closer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.transformer import SITES, Transformer


@torch.no_grad()
def attention_sparsity(model: Transformer, batch: Batch) -> dict[str, float]:
    """``sparsity_SITE``: the share of weights that are exactly 0 among those a valid query may see, over all layers and
    heads; ``null_SITE``: the share of valid queries whose row is all 0. The batch lies on the model's device.
    """
    source, target = batch.source != PAD, batch.target != PAD
    causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).tril()
    queries = {"encoder": source, "decoder": target, "cross": target}  # [sentences, queries]
    keys = {"encoder": source[:, None], "decoder": target[:, None] & causal, "cross": source[:, None]}
    visible = {site: queries[site][:, :, None] & keys[site] for site in SITES}  # [sentences, queries, keys]
    counts = {site: torch.zeros(4, dtype=torch.float64, device=source.device) for site in SITES}

    def observe(site: str) -> Callable[[Tensor], None]:
        def count(weights: Tensor) -> None:  # [sentences, heads, queries, keys]
            seen, heads = visible[site][:, None], weights.shape[1]
            is_zero = (weights == 0) & seen
            null_rows = (is_zero | ~seen).all(dim=-1) & queries[site][:, None]
            numbers = [is_zero.sum(), seen.sum() * heads, null_rows.sum(), queries[site].sum() * heads]
            counts[site] += torch.stack(numbers)

        return count

    modules = model.attention_modules()
    try:
        for (site, _), module in modules.items():
            module.observer = observe(site)
        model(batch.source, model.shift(batch.target))
    finally:
        for module in modules.values():
            module.observer = None
    rates = {}
    for site in SITES:
        zeros, weights, nulls, rows = counts[site].tolist()
        rates[f"sparsity_{site}"] = zeros / max(weights, 1.0)
        rates[f"null_{site}"] = nulls / max(rows, 1.0)
    return rates
