"""Look at attention weights while a model runs: a context manager for any batch, also in a notebook.

    with capture_attention(model) as attention:
        model(source, target_input)
    attention["cross", 3]        # Tensor [batch, heads, target positions, source positions]

Shapes: ``("encoder", layer)`` is [batch, heads, source, source], ``("decoder", layer)`` [batch, heads, target, target]
and ``("cross", layer)`` [batch, heads, target, source]; layers and heads count from 0. The row of target position t
belongs to the step that reads ``target_input[t]`` and predicts ``target[t]``. Weights are float32, taken before
dropout, and exactly 0 at masked positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

Key = tuple[str, int]


class ObservedAttention(Protocol):
    """What is asked of an attention module: a place for an observer and for a mask over heads."""

    observer: Callable[[Tensor], None] | None
    head_mask: Tensor | None


class ObservedModel(Protocol):
    """What is asked of a model: its attention modules by site and layer."""

    def attention_modules(self) -> Mapping[Key, ObservedAttention]: ...


@contextmanager
def observe_attention(model: ObservedModel, observer: Callable[[str, int, Tensor], None]) -> Iterator[None]:
    """Call ``observer(site, layer, weights)`` for every attention computed inside the block.

    Nothing is kept: this is how statistics stream over a corpus. Observers that were there before come back
    afterwards, also when the block raises.
    """
    modules = model.attention_modules()
    before = {key: module.observer for key, module in modules.items()}

    def watch(site: str, layer: int) -> Callable[[Tensor], None]:
        return lambda weights: observer(site, layer, weights)

    try:
        for (site, layer), module in modules.items():
            module.observer = watch(site, layer)
        yield
    finally:
        for key, module in modules.items():
            module.observer = before[key]


@contextmanager
def capture_attention(model: ObservedModel) -> Iterator[dict[Key, Tensor]]:
    """Keep the weights of the last forward pass inside the block, by ``(site, layer)``; shapes as said above.

    The tensors are detached and stay on the model's device. They are as large as the batch makes them: use
    ``observe_attention`` to go over a corpus.
    """
    captured: dict[Key, Tensor] = {}

    def keep(site: str, layer: int, weights: Tensor) -> None:
        captured[site, layer] = weights.detach()

    with observe_attention(model, keep):
        yield captured
