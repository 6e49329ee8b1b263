"""Head ablation: what the model loses when attention heads are switched off.

A head that is switched off outputs 0, before the output norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from nmt_rela.analysis.statistics import LayerStatistics
from nmt_rela.analysis.teacher_forcing import EncodedPair, teacher_forced_pass
from nmt_rela.attention.hook_point import HookPoint
from nmt_rela.models.transformer import Transformer

#: Steps in which the heads of a model are switched off, one group after the other.
ABLATION_STEPS = 8
#: (site, layer, head), layer and head counted from 0.
Head = tuple[str, int, int]


@contextmanager
def ablate_heads(model: Transformer, heads: Iterable[Head]) -> Iterator[None]:
    """Switch heads off inside the block. Blocks may be nested.

    Raises ValueError for a head that the model does not have.
    """
    modules, device = model.attention_modules(), next(model.parameters()).device
    masks: dict[tuple[str, int], Tensor] = {}  # [heads, 1]: 0 for a head that is off
    for site, layer, head in heads:
        if (site, layer) not in modules or not 0 <= head < modules[site, layer].num_heads:
            raise ValueError(f"no head {head} at {site} layer {layer}")
        mask = masks.setdefault((site, layer), torch.ones(modules[site, layer].num_heads, 1, device=device))
        mask[head] = 0.0

    def silence(mask: Tensor) -> Callable[[HookPoint, Any, Tensor], Tensor]:
        return lambda _module, _inputs, z: z * mask.to(z.dtype)  # [batch, queries, heads, head_dim]

    with ExitStack() as handles:
        for key, mask in masks.items():
            handles.enter_context(modules[key].hook_z.register_forward_hook(silence(mask)))
        yield


def rank_heads(layers: Iterable[LayerStatistics]) -> list[Head]:
    """All heads, the least active first: by falling null rate, then by falling sparsity rate."""
    ranked = [
        (-null_rate, -sparsity, (layer.site, layer.layer, head))
        for layer in layers
        for head, (null_rate, sparsity) in enumerate(zip(layer.null_rate, layer.sparsity, strict=True))
    ]
    return [head for _, _, head in sorted(ranked)]


def reference_loss(model: Transformer, pairs: Sequence[EncodedPair]) -> float:
    """Negative log-likelihood of the targets (nats per sub-word, EOS included), without label smoothing."""
    return float(-teacher_forced_pass(model, pairs).sum() / sum(len(pair.target) for pair in pairs))


def measure_heads(
    model: Transformer,
    pairs: Sequence[EncodedPair],
    layers: Sequence[LayerStatistics],
    *,
    num_steps: int = ABLATION_STEPS,
    bleu: Callable[[], float] | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Switch off each head alone, then the heads in the order of ``rank_heads``, in ``num_steps`` steps up to all.

    The result is the part ``head_ablation`` of ``analysis.json``: ``sentences``, the ``loss`` of the whole model, per
    head in ``effects`` the rise of the loss (nats per target sub-word) when it alone is off, and per step in ``steps``
    the loss and the BLEU (None without ``bleu``) with the first ``heads_off`` heads of the ranking off.

    ``layers`` are the statistics to rank by. ``bleu`` translates with the model as it is and returns a score; it is
    called once per step and once before them. ``progress`` is called with 1 after each head and each step.
    """
    ranking = rank_heads(layers)
    statistics = {(layer.site, layer.layer): layer for layer in layers}
    baseline = reference_loss(model, pairs)
    effects, steps = [], []
    for site, layer, head in ranking:
        with ablate_heads(model, [(site, layer, head)]):
            loss = reference_loss(model, pairs)
        effects.append(
            {
                "site": site,
                "layer": layer,
                "head": head,
                "null_rate": statistics[site, layer].null_rate[head],
                "sparsity": statistics[site, layer].sparsity[head],
                "loss_change": loss - baseline,
            }
        )
        if progress is not None:
            progress(1)
    for heads_off in sorted({round(step * len(ranking) / num_steps) for step in range(num_steps + 1)}):
        with ablate_heads(model, ranking[:heads_off]):
            score = None if bleu is None else bleu()
            steps.append({"heads_off": heads_off, "loss": reference_loss(model, pairs), "bleu": score})
        if progress is not None:
            progress(1)
    return {"sentences": len(pairs), "loss": baseline, "effects": effects, "steps": steps}
