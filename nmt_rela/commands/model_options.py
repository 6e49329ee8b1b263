"""The options of the commands that use a trained model, and how they become a translator."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from nmt_rela.commands import console
from nmt_rela.utils.errors import ConfigError

if TYPE_CHECKING:
    from nmt_rela.config.schema import Config, DecodingConfig
    from nmt_rela.generation.translator import Translator


def add_model_arguments(to: argparse.ArgumentParser) -> None:
    """``--model``, ``--checkpoint``, ``--device``, ``--precision``, ``--threads`` and overrides."""
    to.add_argument(
        "--model", required=True, action="append", metavar="RUN",
        help="a run directory; given several times, an ensemble of runs with the same vocabulary",
    )  # fmt: skip
    add_checkpoint_argument(to)
    to.add_argument("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda or cuda:N")
    to.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bf16", "fp16", "int8"),
        help="of weights and arithmetic; int8, of the linear layers, on CPUs only",
    )
    to.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of a process (default: the cores, shared evenly)",
    )
    console.add_overrides(to)


def add_checkpoint_argument(to: argparse.ArgumentParser) -> None:
    """``--checkpoint``."""
    to.add_argument(
        "--checkpoint", metavar="NAME", help="average, best, last or step_N (default: the first of these that exists)"
    )


def add_search_arguments(to: argparse.ArgumentParser) -> None:
    """``--beam``, ``--length-penalty`` and ``--early-stopping``."""
    to.add_argument(
        "--beam", type=int, metavar="N", help="hypotheses kept a sentence; 1 is greedy (default: the run's)"
    )
    to.add_argument(
        "--length-penalty", type=float, metavar="A", help="exponent of ((5 + length) / 6)^A (default: the run's)"
    )
    to.add_argument(
        "--early-stopping", action=argparse.BooleanOptionalAction,
        help="end a sentence with its beam-th finished hypothesis, or when no better one can come (default: the run's)",
    )  # fmt: skip


def load_translator(options: argparse.Namespace) -> Translator:
    """The translator that the options describe."""
    import torch

    from nmt_rela.generation.translator import Translator
    from nmt_rela.utils.memory import limit_onednn_cache

    if options.threads is not None:
        torch.set_num_threads(_checked_threads(options))
    limit_onednn_cache(torch.get_num_threads())
    return Translator.load(
        options.model,
        checkpoint=options.checkpoint,
        device=options.device,
        precision=options.precision,
        decoding=_decoding(options),
    )


def load_in_processes(options: argparse.Namespace, devices: Sequence[str]) -> list[Callable[[], Translator]]:
    """One picklable call for each device that makes, in a process of its own, the translator that the options
    describe. The cores are shared evenly unless ``--threads`` says how many each has.
    """
    import torch

    _decoding(options)  # mistakes are refused before any process starts
    shared = max(1, torch.get_num_threads() // len(devices))
    threads = shared if options.threads is None else _checked_threads(options)
    described = [argparse.Namespace(**{**vars(options), "device": device, "threads": threads}) for device in devices]
    return [partial(_load_in_process, one) for one in described]


def _checked_threads(options: argparse.Namespace) -> int:
    threads: int = options.threads
    if threads < 1:
        raise ConfigError(f"--threads: found {threads}; accepted: 1 or more")
    return threads


def _load_in_process(options: argparse.Namespace) -> Translator:
    console.log_to_stderr(quiet=True)  # one process that tells what goes on is enough; warnings come from all
    return load_translator(options)


def override_decoding(config: Config, overrides: Sequence[str]) -> DecodingConfig:
    """A run's decoding settings under overrides, checked like any configuration. Raises ConfigError for other ones."""
    from nmt_rela.config.loader import override_config

    for override in overrides:
        if not override.startswith("decoding."):
            raise ConfigError(f"{override}: a trained model has only its decoding to set; accepted: decoding.key=value")
    return override_config(config, overrides).decoding


def _decoding(options: argparse.Namespace) -> DecodingConfig:
    """The first run's decoding settings under the options and overrides."""
    from nmt_rela.checkpoints.run_directory import RunDirectory

    overrides = list(options.overrides)
    for name in ("beam", "length_penalty", "early_stopping"):
        value = getattr(options, name, None)  # a command that does not search has none of them
        if value is not None:
            overrides.append(f"decoding.{name}={str(value).lower()}")
    return override_decoding(RunDirectory(options.model[0]).config(), overrides)
