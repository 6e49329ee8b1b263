"""What this machine has: the processor of a tensor, Triton, packed matrix multiplication on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

#: "none" has no kernels: everything is computed by its plain form.
Processor = Literal["none", "cpu", "gpu"]

_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_assumed: ContextVar[Processor | None] = ContextVar("assumed processor", default=None)


def processor_of(x: Tensor) -> Processor:
    """The processor whose kernels a tensor may use."""
    assumed = _assumed.get()
    if assumed is not None:
        return assumed
    device = x.device.type
    return "cpu" if device == "cpu" else "gpu" if device == "cuda" else "none"


@contextmanager
def assume_processor(processor: Processor) -> Iterator[None]:
    """Use the kernels of another processor in this thread, for tests and comparisons.

    ``none`` takes the plain forms. ``gpu`` on CPU tensors needs Triton's interpreter (``TRITON_INTERPRET=1``).
    """
    token = _assumed.set(processor)
    try:
        yield
    finally:
        _assumed.reset(token)


def triton_is_available_for(x: Tensor) -> bool:
    """Whether the Triton kernels take a tensor."""
    return processor_of(x) == "gpu" and x.dtype in _TRITON_DTYPES and _has_triton()


def supports_packed_linear(dtype: torch.dtype) -> bool:
    """Whether this CPU has packed matrix multiplication in a dtype (int8 too)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.int8:
        has_int8 = hasattr(torch.ops.onednn, "qlinear_pointwise")
        return has_int8 and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
