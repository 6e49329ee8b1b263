"""COMET (Rei et al. 2020): a neural model's judgement of translations, by the package unbabel-comet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nmt_rela.utils.errors import ConfigError, first_line

if TYPE_CHECKING:
    import torch


def check_metrics(names: Iterable[str], place: str) -> None:
    """Raise ConfigError where COMET is asked for and not installed. ``place`` is the setting or option."""
    if "comet" in names and find_spec("comet") is None:
        raise ConfigError(
            f"{place}: 'comet' is not installed (pip install unbabel-comet); "
            "accepted without it: bleu, chrf, chrf++, ter"
        )


@cache
def load_comet(name: str) -> Any:
    """The model of a name on the Hugging Face Hub, downloaded if needed, or of a ``.ckpt`` file, on the CPU.

    Raises ConfigError.
    """
    check_metrics(["comet"], "evaluation.metrics")
    for logger in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # lines about the hardware at every call
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from comet import download_model, load_from_checkpoint

        root.handlers[:] = handlers  # the package prints the log of the whole process, ours a second time
        root.setLevel(level)
        return load_from_checkpoint(name if name.endswith(".ckpt") else download_model(name))
    except Exception as error:  # of four libraries and the network
        raise ConfigError(
            f"evaluation.comet_model: '{name}' cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "accepted: the name of a COMET model on huggingface.co, or the path of its model.ckpt"
        ) from error


def comet_score(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    model: str,
    device: torch.device | None,
) -> tuple[float, str]:
    """The mean over sentences and over references, each a text, and a signature.

    Raises ConfigError where the model is missing or too large for the GPU.
    """
    import torch

    samples = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for text in references
        for source, hypothesis, reference in zip(sources, hypotheses, text, strict=True)
    ]
    on_gpu = device is not None and device.type == "cuda"
    where = {"gpus": 1, "devices": [device.index or 0]} if on_gpu and device is not None else {"gpus": 0}
    scorer = load_comet(model)
    try:
        # Validation runs under autocast; COMET's own precision is float32. Without workers, nothing forks the trainer.
        with torch.autocast("cuda" if on_gpu else "cpu", enabled=False):
            found = scorer.predict(samples, batch_size=16, progress_bar=False, num_workers=0, **where)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"evaluation.metrics: 'comet' does not fit into the memory of {device} ({first_line(error)}); accepted: "
            "the other metrics, and COMET afterwards by nmt-evaluate --metrics comet, also with --device cpu"
        ) from error
    try:
        number = version("unbabel-comet")
    except PackageNotFoundError:
        number = "unknown"
    return float(found.system_score), f"COMET|model:{model}|nrefs:{len(references)}|version:{number}"
