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

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor, nn

from nmt_rela.models.transformer import Transformer


@contextmanager
def observe_attention(model: Transformer, observer: Callable[[str, int, Tensor], None]) -> Iterator[None]:
    """Call ``observer(site, layer, weights)`` for every attention that is computed inside the block.

    Nothing is kept, so that statistics of a corpus need constant memory.
    """

    def hook(site: str, layer: int, _module: nn.Module, _inputs: Any, weights: Tensor) -> None:
        observer(site, layer, weights.detach().float())

    with ExitStack() as handles:
        for (site, layer), module in model.attention_modules().items():
            handles.enter_context(module.hook_pattern.register_forward_hook(partial(hook, site, layer)))
        yield


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


class ObservableModels:
    """Modules of their own with the parameters of some models, so that observing does not affect their other users."""

    def __init__(self, models: Sequence[Transformer]) -> None:
        self._models = tuple(models)
        self._copies: tuple[Transformer, ...] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[tuple[Transformer, ...]]:
        """The modules, for one thread at a time. They are made when they are first asked for."""
        with self._lock:
            if self._copies is None:
                tensors = chain.from_iterable((*model.parameters(), *model.buffers()) for model in self._models)
                memo = {id(tensor): tensor for tensor in tensors}
                self._copies = tuple(copy.deepcopy(model, dict(memo)) for model in self._models)
            yield self._copies
