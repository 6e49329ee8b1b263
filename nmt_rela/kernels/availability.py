"""What this machine has: the processor of a tensor, usable GPU kernels, packed matrix multiplication on a CPU.

Kernels for GPUs, and the compiled code of CPUs, are used where nothing speaks against them. The environment variable
NMT_RELA_KERNELS decides otherwise: ``off`` never uses them, and ``require`` makes it an error that they cannot be used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from nmt_rela.utils.errors import ConfigError, first_line

LOG = logging.getLogger(__name__)

#: "none" has no kernels: everything is computed by its plain form.
Processor = Literal["none", "cpu", "gpu"]

#: What computes on a GPU besides the plain forms: PyTorch's fused attention, and our kernels.
GPUBackend = Literal["sdpa", "triton"]

#: The environment variable, and what it may say.
VARIABLE = "NMT_RELA_KERNELS"
MODES = ("auto", "off", "require")

#: Older ones do not compile the kernels, and older GPUs run them much too slowly.
_MIN_TRITON = (3, 4)
_MIN_CAPABILITY = (8, 0)

_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_assumed: ContextVar[Processor | None] = ContextVar("assumed processor", default=None)
#: Why a backend of a GPU is not used. It holds for the whole process: all threads must compute alike.
_disabled: dict[tuple[GPUBackend, torch.device], str] = {}


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


def disable_backend(backend: GPUBackend, device: torch.device, reason: str) -> None:
    """Never use a backend on a GPU from now on, and warn. Raises ConfigError if the environment requires it."""
    if kernel_mode() == "require":
        raise ConfigError(f"{VARIABLE}: found 'require', but {backend} cannot be used on {device}: {reason}")
    device = _with_index(device)
    if (backend, device) not in _disabled:
        LOG.warning("%s: %s is not used; the slower reference is: %s", device, backend, reason)
    _disabled[backend, device] = reason


def disabled_reason(backend: GPUBackend, device: torch.device) -> str | None:
    """Why a backend is not used on a GPU; None if it is."""
    return _disabled.get((backend, _with_index(device)))


def _with_index(device: torch.device) -> torch.device:
    """The device as tensors on it name it."""
    return torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device


def gpu_backend_states(device: torch.device) -> dict[str, str]:
    """What became of each backend on a GPU: used, or why not."""
    return {backend: disabled_reason(backend, device) or "used" for backend in get_args(GPUBackend)}


def unusable_gpu() -> str | None:
    """Why PyTorch cannot use the GPU that this machine has; None if there is none or if it can."""
    if torch.cuda.is_available() or not Path("/dev/nvidia0").exists():
        return None
    if torch.version.cuda is None:
        return "this machine has an NVIDIA GPU, but this PyTorch was built without CUDA"
    return (
        f"this machine has an NVIDIA GPU that PyTorch {torch.__version__} cannot use: "
        f"is its driver made for CUDA {torch.version.cuda}, and is CUDA_VISIBLE_DEVICES right?"
    )


def kernel_mode() -> str:
    """What NMT_RELA_KERNELS says: one of `MODES`. Raises ConfigError for anything else."""
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise ConfigError(f"{VARIABLE}: found '{mode}'; accepted: {', '.join(MODES)}")
    return mode


def triton_is_available_for(x: Tensor) -> bool:
    """Whether the Triton kernels take a tensor."""
    if processor_of(x) != "gpu" or x.dtype not in _TRITON_DTYPES or ("triton", x.device) in _disabled:
        return False
    return triton_problem(x.device) is None


@cache
def triton_problem(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on a device, None if they can: version, GPU, and a small kernel really run."""
    if kernel_mode() == "off":
        return f"{VARIABLE} is off"
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed"
    if tuple(map(int, found.split(".")[:2])) < _MIN_TRITON:
        return f"Triton {found} is too old; {'.'.join(map(str, _MIN_TRITON))} or newer is needed"
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < _MIN_CAPABILITY:
        needed = ".".join(map(str, _MIN_CAPABILITY))
        return f"compute capability {'.'.join(map(str, capability))} is too low; {needed} or more is needed"
    try:  # a compiler, Python's headers or a place for compiled kernels may be missing
        from nmt_rela.kernels.triton.gated_rms_norm import gated_rms_norm_triton

        gated_rms_norm_triton(torch.ones(1, 16, device=device), None, epsilon=1.0)
    except Exception as error:  # of any type
        return f"Triton {found} cannot run a kernel: {first_line(error)}"
    return None


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a tensor is multiplied with matrices: autocast's where that is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


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
