"""A run's model in a folder of its own, in a form that other programs read.

``ctranslate2``: model.bin, config.json and vocabularies for CTranslate2, the SentencePiece models beside them.
``safetensors``: model.safetensors, config.yaml and tokenizer/, a folder that stands wherever a run directory does.
Either has a README.md that says how to use it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nmt_rela.checkpoints.run_directory import EXPORTED, RunDirectory
from nmt_rela.checkpoints.safetensors_io import require_safetensors, write_weights
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import Config
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.export.ctranslate2 import obstacles, transformer_spec
from nmt_rela.export.readme import readme
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError, UserError

#: How weights may be stored, the default first.
QUANTIZATIONS = {
    "ctranslate2": (
        "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16",
    ),
    "safetensors": ("float32", "float16", "bfloat16"),
}  # fmt: skip


def export_run(
    run: RunDirectory, output: Path, *, form: str, checkpoint: str | None = None, quantization: str | None = None
) -> None:
    """Write the model of a checkpoint as ``form`` (a key of ``QUANTIZATIONS``) into the new folder ``output``, whole or
    not at all.

    Raises ConfigError when ``output`` exists, for an unknown quantization, and for a model that the form cannot hold,
    with every reason; UserError when the package that the form needs is not installed.
    """
    accepted = QUANTIZATIONS[form]
    quantization = quantization or accepted[0]
    if quantization not in accepted:
        raise ConfigError(f"quantization: found '{quantization}'; accepted for {form}: {', '.join(accepted)}")
    config = run.config()
    exporter = _EXPORTERS[form]
    exporter.check(run, config)
    if output.exists():
        raise ConfigError(f"{output}: is there already; accepted: a folder that is to be made")
    vocabularies, model = run.load_tokenizers(), run.load_model(checkpoint)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        exporter.write(model, vocabularies, config, partial, quantization)
        (partial / "README.md").write_text(readme(form, config), encoding="utf-8")
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_ctranslate2(run: RunDirectory, config: Config) -> None:
    if reasons := obstacles(config.model):
        raise ConfigError(
            f"{run.path}: CTranslate2 cannot run this model: {'; '.join(reasons)} "
            "(--format safetensors takes every attention)"
        )
    try:
        import ctranslate2.specs  # noqa: F401
    except ImportError as error:
        raise UserError("exporting to CTranslate2 needs ctranslate2; run: pip install 'nmt_rela[export]'") from error


def _write_ctranslate2(
    model: Transformer, vocabularies: TokenizerPair, config: Config, directory: Path, quantization: str
) -> None:
    spec = transformer_spec(model, vocabularies)
    spec.optimize(quantization=quantization)
    spec.save(str(directory))
    vocabularies.source.save(directory / "source.model")
    vocabularies.target.save(directory / "target.model")


def _check_safetensors(run: RunDirectory, config: Config) -> None:
    require_safetensors()


def _write_safetensors(
    model: Transformer, vocabularies: TokenizerPair, config: Config, directory: Path, quantization: str
) -> None:
    model.to(getattr(torch, quantization))
    write_weights(directory / EXPORTED, model, vocabulary=vocabularies.fingerprint)
    (directory / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    vocabularies.save(directory / "tokenizer")


@dataclass(frozen=True, slots=True)
class _Exporter:
    check: Callable[[RunDirectory, Config], None]
    write: Callable[[Transformer, TokenizerPair, Config, Path, str], None]


_EXPORTERS = {
    "ctranslate2": _Exporter(_check_ctranslate2, _write_ctranslate2),
    "safetensors": _Exporter(_check_safetensors, _write_safetensors),
}
