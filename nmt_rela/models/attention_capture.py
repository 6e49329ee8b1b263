"""Attention weights of a running model: a context manager for any batch, also in a notebook.

    with capture_attention(model) as attention:
        model(source, target_input)
    attention["cross", 3]        # Tensor [batch, heads, target positions, source positions]

Shapes: ``("encoder", layer)`` is [batch, heads, source, source], ``("decoder", layer)`` [batch, heads, target, target]
and ``("cross", layer)`` [batch, heads, target, source]. Layers and heads count from 0. Row t of a target belongs to the
step that reads ``target_input[t]`` and predicts ``target[t]``. Weights are float32, taken before dropout, and exactly 0
at masked positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from nmt_rela.attention.hook_point import HookPoint
from nmt_rela.models.transformer import Transformer


@contextmanager
def observe_attention(model: Transformer, observer: Callable[[str, int, Tensor], None]) -> Iterator[None]:
    """Call ``observer(site, layer, weights)`` for every attention that is computed inside the block.

    Nothing is kept, so that statistics of a corpus need constant memory.
    """
    handles: list[RemovableHandle] = []

    def watch(site: str, layer: int, hook_point: HookPoint) -> None:
        def hook(_module: HookPoint, _inputs: Any, weights: Tensor) -> None:
            observer(site, layer, weights.detach().float())

        handles.append(hook_point.register_forward_hook(hook))

    try:
        for (site, layer), module in model.attention_modules().items():
            watch(site, layer, module.hook_pattern)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_attention(model: Transformer) -> Iterator[dict[tuple[str, int], Tensor]]:
    """The weights of the last forward pass inside the block, by ``(site, layer)``.

    The tensors are detached and stay on the model's device. For a corpus use ``observe_attention``.
    """
    captured: dict[tuple[str, int], Tensor] = {}

    def capture(site: str, layer: int, weights: Tensor) -> None:
        captured[site, layer] = weights

    with observe_attention(model, capture):
        yield captured
