"""Export of a run's model into a folder that other programs read.

``ctranslate2``: model.bin, config.json and vocabularies for CTranslate2, and the SentencePiece models.
``safetensors``: model.safetensors, config.yaml and tokenizer/; commands accept the folder as a run directory.
Both have a README.md that explains their use.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nmt_rela.checkpoints.run_directory import EXPORTED, RunDirectory
from nmt_rela.checkpoints.safetensors_io import require_safetensors, write_weights
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import Config
from nmt_rela.export.ctranslate2 import transformer_spec, unsupported_reasons
from nmt_rela.export.readme import readme
from nmt_rela.utils.errors import ConfigError, UserError
from nmt_rela.utils.files import atomic_directory

#: Storage types of the weights by format, the default first.
QUANTIZATIONS = {
    "ctranslate2": (
        "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16",
    ),
    "safetensors": ("float32", "float16", "bfloat16"),
}  # fmt: skip


def export_run(
    run: RunDirectory, output: Path, *, format: str, checkpoint: str | None = None, quantization: str | None = None
) -> None:
    """Write the model of a checkpoint into the new folder ``output``; ``format`` is a key of `QUANTIZATIONS`.

    Raises ConfigError if ``output`` exists, for an unknown quantization, and with all reasons for a model that the
    format does not support; UserError if the package of the format is not installed.
    """
    accepted = QUANTIZATIONS[format]
    quantization = quantization or accepted[0]
    if quantization not in accepted:
        raise ConfigError(f"--quantization: found '{quantization}'; accepted for {format}: {', '.join(accepted)}")
    config = run.config()
    if format == "ctranslate2":
        _check_ctranslate2(run, config)
    else:
        require_safetensors()
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; accepted: a new folder")
    tokenizers, model = run.load_tokenizers(), run.load_model(checkpoint)
    with atomic_directory(output) as partial:
        if format == "ctranslate2":
            spec = transformer_spec(model, tokenizers)
            spec.optimize(quantization=quantization)
            spec.save(str(partial))
            tokenizers.source.save(partial / "source.model")
            tokenizers.target.save(partial / "target.model")
        else:
            model.to(getattr(torch, quantization))
            write_weights(partial / EXPORTED, model, vocabulary=tokenizers.fingerprint)
            (partial / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
            tokenizers.save(partial / "tokenizer")
        (partial / "README.md").write_text(readme(format, config), encoding="utf-8")


def _check_ctranslate2(run: RunDirectory, config: Config) -> None:
    if reasons := unsupported_reasons(config.model):
        raise ConfigError(
            f"{run.path}: CTranslate2 cannot run this model: {'; '.join(reasons)} "
            "(--format safetensors supports every attention)"
        )
    try:
        import ctranslate2.specs  # noqa: F401
    except ImportError as error:
        raise UserError("exporting to CTranslate2 needs ctranslate2; run: pip install 'nmt_rela[export]'") from error
