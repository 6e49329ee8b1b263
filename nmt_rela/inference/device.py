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


def worker_devices(name: str, workers: int | None) -> list[str]:
    """The device of each of so many translating processes; by default one process on the CPU, or one on every GPU that
    ``name`` means (auto and cuda mean all that are visible). Raises ConfigError.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: found {workers}; accepted: 1 or more")
    device = choose_device(name)
    names = [str(device)]
    if device.type == "cuda" and ":" not in str(device):
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [names[worker % len(names)] for worker in range(workers or len(names))]
