"""The device and the numeric precision of inference."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from nmt_rela.generation.kernel_check import check_kernels
from nmt_rela.kernels.availability import supports_packed_linear, unusable_gpu
from nmt_rela.kernels.cpu.packed_linear import pack_linear_layers, packed_linear_class
from nmt_rela.models.native_decoder import native_model
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError

LOG = logging.getLogger(__name__)

Precision = Literal["float32", "bf16", "fp16", "int8"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


#: A step costs about the same time for fewer hypotheses: on a CPU by its small matrices, on a GPU by its launches.
_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 16_000, 128_000
#: Memory of a GPU per token of its batches: enough for the log-probabilities and caches of sentences of 4 sub-words.
_BYTES_PER_TOKEN = 1 << 19


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the GPU if there is one. Raises ConfigError for one that does not exist."""
    if name == "auto":
        if reason := unusable_gpu():
            LOG.warning("--device: computing on the CPU, because %s", reason)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ConfigError(f"--device: found {name!r}; accepted: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device: found '{name}', but {torch.cuda.device_count()} CUDA devices are visible")
    return device


def worker_devices(name: str, workers: int | None) -> list[str]:
    """The device of each translation process.

    By default there is one process on the CPU, or one per GPU that ``name`` means (``auto`` and ``cuda`` mean all
    visible GPUs). Raises ConfigError.
    """
    device = resolve_device(name)
    names = [str(device)]
    if device.type == "cuda" and ":" not in str(device):
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [names[worker % len(names)] for worker in range(workers or len(names))]


def resolve_batch_tokens(setting: Literal["auto"] | int, device: torch.device) -> int:
    """Padded source tokens times beam of a decoding batch on a device."""
    if setting != "auto":
        return setting
    if device.type != "cuda":
        return _CPU_BATCH_TOKENS
    return min(_GPU_BATCH_TOKENS, torch.cuda.get_device_properties(device).total_memory // _BYTES_PER_TOKEN)


def prepare_for_inference(model: Transformer, precision: Precision, device: torch.device) -> Transformer:
    """The model, permanently changed for inference: in ``precision``, without gradients, packed weights on the CPU.

    int8 means linear layers in 8 bits and the rest in float32. Raises ConfigError if the machine has no int8.
    """
    if precision not in tuple(DTYPES):
        raise ConfigError(f"--precision: found '{precision}'; accepted: {', '.join(DTYPES)}")
    dtype = DTYPES[precision]
    if dtype == torch.float16 and device.type == "cpu":  # with some releases of torch 1,000 times slower than float32
        raise ConfigError("--precision: 'fp16' needs a GPU; accepted on the CPU: float32, bf16, int8")
    if dtype == torch.int8 and (device.type != "cpu" or not supports_packed_linear(dtype)):
        raise ConfigError(
            "--precision: found 'int8', which needs --device cpu on an x86 machine with AVX2; "
            f"accepted here: float32, bf16{', fp16' * (device.type == 'cuda')}"
        )
    check_kernels(model, dtype, device)
    model = model.to(torch.float32 if dtype == torch.int8 else dtype).requires_grad_(False)
    for attention in model.attention_modules().values():
        attention.fold_norm_gain()
    native = native_model(model, dtype) if device.type == "cpu" else None
    if device.type == "cpu" and supports_packed_linear(dtype):
        pack_linear_layers(model, dtype)
        model.packed_output_projection = packed_linear_class(dtype)(model.output_embedding, model.output_bias)
    if native is not None:
        model.native = native
        native.watch(model)
    return model
