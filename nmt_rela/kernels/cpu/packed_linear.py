"""Linear layers for inference on CPUs: their weights are laid out once as the matrix products want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nmt_rela.models.transformer import Transformer

#: Activations are whole numbers up to this, either side of _ZERO. Without VNNI, pairs of products are summed in 16
#: bits, which more than 7 bits would overflow.
_LEVELS = 127 if getattr(torch.cpu, "_is_vnni_supported", bool)() else 63
_ZERO = _LEVELS + 1
#: Float32 numbers of this size have no bits for fractions, so what is added to it is rounded to a whole number, which
#: then stands in the lowest bits of the sum: a third less time than to divide, round and convert.
_ROUNDING = 1.5 * 2**23


class _Packed(nn.Module):
    """Copies of a model share it: nothing of it ever changes."""

    def __deepcopy__(self, memo: dict[int, object]) -> _Packed:
        return self


class PackedLinear(_Packed):
    """x Wᵀ + b through oneDNN, in the dtype of the weight. The same as ``nn.Linear``, without laying out W at every
    call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return output


class DynamicInt8Linear(_Packed):
    """x Wᵀ + b with both rounded to 8 bits: each row of W by its own scale, and each row of x by its own at every
    call, so that a result does not depend on the other rows. float32 in and out.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scales.unsqueeze(1)).round().to(torch.int8)
        self._scales = scales / _LEVELS  # that of x is its largest number over this
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._rounding = torch.full((weight.shape[1],), _ROUNDING + _ZERO)
        self._tiny = torch.tensor(1e-30)
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        # The difference also keeps a row of zeros from being divided by 0.
        largest = torch.maximum(x.amax(dim=-1, keepdim=True), self._tiny - x.amin(dim=-1, keepdim=True))
        shifted = torch.addcdiv(self._rounding, x, largest, value=_LEVELS)
        rounded = shifted.view(torch.int32).to(torch.int8).view(torch.uint8)  # the lowest byte of each
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return output.mul_(largest) if self._bias is None else torch.addcmul(self._bias, output, largest, out=output)


def has_packed(dtype: torch.dtype) -> bool:
    """Whether this machine has packed products in a dtype (int8 too)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.int8:
        return hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.cpu.get_cpu_capability().startswith(
            "AVX"
        )
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def pack(model: Transformer, dtype: torch.dtype) -> None:
    """Replace the linear layers of a model on the CPU, the output layer among them, by packed ones: for inference only.

    ``dtype`` is that of the model, or int8 for a float32 model. The machine must have it (``has_packed``).
    """
    kind = DynamicInt8Linear if dtype == torch.int8 else PackedLinear
    for attention in model.attention_modules().values():
        attention.absorb_gain()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, kind(child.weight, child.bias))
    model.packed_output = kind(model.output_weight, None)
