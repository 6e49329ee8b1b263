"""The number format of matrix products."""

from __future__ import annotations

import torch

from nmt_rela.utils.errors import ConfigError


def resolve_precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products. Raises ConfigError for a choice the device cannot honour."""
    if setting == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if setting == "fp16" and device.type == "cpu":
        raise ConfigError("training.precision: 'fp16' needs a GPU; accepted on the CPU: auto, float32, bf16")
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting]
