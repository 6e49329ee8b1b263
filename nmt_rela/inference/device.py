"""The devices that translation runs on."""

from __future__ import annotations

import torch

from nmt_rela.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of a name; auto is the GPU where there is one. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: found '{name}'; accepted: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: found '{name}', but {torch.cuda.device_count()} CUDA devices are visible")
    return device
