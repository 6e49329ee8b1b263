"""Hook points: places inside attention where tools look at a tensor or replace it."""

from __future__ import annotations

from torch import Tensor, nn


class HookPoint(nn.Module):
    """The identity, to register a forward hook on (``torch.nn.Module.register_forward_hook``).

    A hook ``hook(module, inputs, output)`` sees the tensor as ``output``. What it returns, unless None, takes the
    tensor's place.
    """

    @property
    def is_active(self) -> bool:
        """Whether a hook is registered. The owner skips the module when none is."""
        return bool(self._forward_hooks)

    def forward(self, x: Tensor) -> Tensor:
        return x
