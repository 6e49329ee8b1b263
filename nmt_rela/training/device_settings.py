"""Settings whose ``auto`` depends on the device: the dtype of matrix multiplication and the size of a micro-batch."""

from __future__ import annotations

from typing import Literal

import torch

from nmt_rela.config.schema import ModelConfig
from nmt_rela.utils.errors import ConfigError

#: Padded tokens of a micro-batch on a CPU. Larger ones are not faster.
_CPU_BATCH_TOKENS = 16_384
#: Fraction of a GPU's memory for activations; parameters, gradients and Adam's state take the rest.
_ACTIVATION_FRACTION = 0.5


def resolve_precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix multiplication. Raises ConfigError for a choice that the device does not support.

    ``tf32`` is float32 whose matrices are multiplied with 10 bits of mantissa; it holds for the whole process.
    """
    if setting == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if setting in ("fp16", "tf32") and device.type == "cpu":
        raise ConfigError(f"training.precision: '{setting}' needs a GPU; accepted on the CPU: auto, float32, bf16")
    torch.set_float32_matmul_precision("high" if setting == "tf32" else "highest")
    return {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting]


def resolve_max_batch_tokens(setting: Literal["auto"] | int, device: torch.device, model: ModelConfig) -> int:
    """Padded tokens of one micro-batch, both sides, that the device can hold."""
    if setting != "auto":
        return setting
    if device.type == "cpu":
        return _CPU_BATCH_TOKENS
    layers = model.encoder_layers + model.decoder_layers
    # About 18 hidden states and 3 feed-forward activations per layer are saved for the backward pass, in float32.
    bytes_per_token = 4 * layers * (18 * model.d_model + 3 * model.ffn_dim)
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1_024, int(_ACTIVATION_FRACTION * memory / bytes_per_token))
