"""Linear layers for inference on a CPU, with weights packed once for oneDNN's matrix multiplication."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Quantized activations are integers of at most this size on either side of _ZERO. Without VNNI, pairs of products are
#: summed in 16 bits, which more than 7 bits per factor would overflow.
LEVELS = 127 if getattr(torch.cpu, "_is_vnni_supported", bool)() else 63
_ZERO = LEVELS + 1
#: Float32 numbers of this size have no fraction bits. What is added to it is rounded to an integer, which then stands
#: in the lowest bits of the sum. This takes a third less time than dividing, rounding and converting.
_ROUNDING = 1.5 * 2**23


def tensor_state(x: Tensor) -> tuple[int, int]:
    """A value that changes with what the tensor holds, but for changes through ``.data`` or in inference mode."""
    return x.data_ptr(), 0 if x.is_inference() else x._version


class _Packed(nn.Module):
    """Shared by copies of a model, because it never changes."""

    #: The `tensor_state` of what was packed.
    weight_state: tuple[int, int]

    def __deepcopy__(self, memo: dict[int, object]) -> _Packed:
        return self


class PackedLinear(_Packed):
    """``nn.Linear`` in the dtype of the weight, without packing W at every call."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight_state = tensor_state(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return output


class DynamicInt8Linear(_Packed):
    """x Wᵀ + b in 8 bits, float32 in and out: every row of W and, at every call, every row of x has its own scale.

    A result does not depend on the other rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight_state = tensor_state(weight)
        weight = weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scales.unsqueeze(1)).round().to(torch.int8)
        self._scales = scales / LEVELS  # the scale of a row of x is its largest number over this
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._rounding = torch.full((weight.shape[1],), _ROUNDING + _ZERO)
        self._tiny = torch.tensor(1e-30)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        # Subtracting from a tiny number also avoids dividing a row of zeros by 0.
        largest = torch.maximum(x.amax(dim=-1, keepdim=True), self._tiny - x.amin(dim=-1, keepdim=True))
        shifted = torch.addcdiv(self._rounding, x, largest, value=LEVELS)
        rounded = shifted.view(torch.int32).to(torch.int8).view(torch.uint8)  # the lowest byte of each
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return output.mul_(largest) if self.bias is None else torch.addcmul(self.bias, output, largest, out=output)


def pack_linear_layers(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every ``nn.Linear`` inside a module by its packed form, permanently: for inference only.

    ``dtype`` is that of the module, or int8 for a float32 module. The machine must support it
    (`availability.supports_packed_linear`).
    """
    packed = packed_linear_class(dtype)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, packed(child.weight, child.bias))


def packed_linear_class(dtype: torch.dtype) -> type[PackedLinear] | type[DynamicInt8Linear]:
    """The packed form of a linear layer in a dtype."""
    return DynamicInt8Linear if dtype == torch.int8 else PackedLinear
