"""The options of the commands that use a trained model, and the translator that they describe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from nmt_rela.commands import cli
from nmt_rela.config.schema import Config, DecodingConfig
from nmt_rela.utils.errors import ConfigError

if TYPE_CHECKING:
    from nmt_rela.generation.translator import Translator

#: Options that stand for an override of the same name in the section ``decoding``.
DECODING_OPTIONS = ("beam_size", "length_penalty", "early_stopping", "max_length_offset")
#: More threads than any machine has cores, or more processes, only take memory.
MAX_THREADS, MAX_WORKERS = 512, 64


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--checkpoint``, ``--device``, ``--precision``, ``--threads`` and overrides."""
    parser.add_argument(
        "--model", required=True, action="append", type=cli.path, metavar="RUN",
        help="a run directory; given several times, an ensemble of runs with the same vocabulary",
    )  # fmt: skip
    add_checkpoint_argument(parser)
    parser.add_argument("--device", default="auto", help="auto (the GPU if there is one), cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bf16", "fp16", "int8"),
        help="precision of weights and arithmetic; int8: of the linear layers, on CPUs only",
    )  # fmt: skip
    parser.add_argument(
        "--threads",
        type=cli.number_from(1, MAX_THREADS),
        metavar="N",
        help="CPU threads per process (default: the cores, divided evenly)",
    )
    cli.add_overrides(parser)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint``."""
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="average, best, last or step_N (default: the first of these that exists)"
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """``--beam-size``, ``--length-penalty``, ``--early-stopping`` and ``--max-length-offset``."""
    of_decoding = partial(cli.value_of, DecodingConfig)
    parser.add_argument(
        "--beam-size", type=of_decoding("beam_size"), metavar="N",
        help="hypotheses kept per sentence; 1 is greedy (default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--length-penalty", type=of_decoding("length_penalty"), metavar="A",
        help="exponent of ((5 + length) / 6)^A (default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--early-stopping", action=argparse.BooleanOptionalAction,
        help="end a sentence when beam-size hypotheses have finished, not only when no better one can come "
        "(default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--max-length-offset", type=of_decoding("max_length_offset"), metavar="N",
        help="a translation has at most source length + N sub-words (default: the run's)",
    )  # fmt: skip


def load_translator(options: argparse.Namespace) -> Translator:
    """The translator that the options describe."""
    import torch

    from nmt_rela.generation.translator import Translator
    from nmt_rela.kernels.cpu.matmul_cache import limit_onednn_cache

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    limit_onednn_cache(torch.get_num_threads())
    return Translator.load(
        options.model,
        checkpoint=options.checkpoint,
        device=options.device,
        precision=options.precision,
        decoding=decoding_settings(options),
    )


def translator_factories(options: argparse.Namespace, devices: Sequence[str]) -> list[Callable[[], Translator]]:
    """One picklable function per device that loads the translator in a process of its own.

    The cores are divided evenly among the processes unless ``--threads`` is given.
    """
    import torch

    decoding_settings(options)  # wrong options are refused before any process starts
    evenly = max(1, torch.get_num_threads() // len(devices))
    given = {**vars(options), "threads": options.threads or evenly}
    per_device = [argparse.Namespace(**{**given, "device": device}) for device in devices]
    return [partial(_load_in_process, one) for one in per_device]


def _load_in_process(options: argparse.Namespace) -> Translator:
    cli.log_to_stderr(quiet=True)  # the parent process logs; workers only warn
    return load_translator(options)


def check_overrides(overrides: Sequence[str], used: Collection[str], *, by: str) -> None:
    """Raise ConfigError for an override of a setting in ``decoding`` that a command, named ``by``, does not use."""
    unused = {f"decoding.{field.name}" for field in fields(DecodingConfig) if field.name not in used}
    for override in overrides:
        if (key := override.partition("=")[0]) in unused:
            accepted = ", ".join(f"decoding.{name}" for name in used)
            raise ConfigError(f"{key}: {by} does not use it; accepted: {accepted}")


def override_decoding(config: Config, overrides: Sequence[str]) -> DecodingConfig:
    """The decoding settings of a run under overrides, checked like any config. Raises ConfigError for other ones."""
    from nmt_rela.config.loader import override_config

    for override in overrides:
        if not override.startswith("decoding."):
            raise ConfigError(
                f"override '{override}': only the decoding of a trained model can be set; accepted: decoding.key=value"
            )
    return override_config(config, overrides).decoding


def decoding_settings(options: argparse.Namespace) -> DecodingConfig:
    """The decoding settings of the first run under the options and overrides."""
    from nmt_rela.checkpoints.run_directory import RunDirectory

    overrides = list(options.overrides)
    for name in DECODING_OPTIONS:
        value = getattr(options, name, None)  # nmt-score has none of them
        if value is not None:
            if any(override.startswith(f"decoding.{name}=") for override in overrides):
                raise ConfigError(f"--{name.replace('_', '-')}: decoding.{name} is given too; accepted: one of them")
            overrides.append(f"decoding.{name}={str(value).lower()}")
    return override_decoding(RunDirectory(options.model[0]).config(), overrides)
