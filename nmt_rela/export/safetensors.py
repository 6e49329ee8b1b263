"""Export as safetensors: model.safetensors, config.yaml, tokenizer/ and a README.md; commands accept it as a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nmt_rela.checkpoints.run_directory import EXPORTED, RunDirectory
from nmt_rela.checkpoints.safetensors_io import require_safetensors, write_weights
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import Config
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.export.model_card import export_readme
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.files import atomic_directory, read_json, write_checksums

#: Storage types of the weights, the default first.
QUANTIZATIONS = ("float32", "float16", "bfloat16")

#: The README.md of a folder that is a run directory without checkpoints.
README = """\
# $source to $target

Made by nmt-export: `model.safetensors` (tied weights are stored once), `config.yaml` and `tokenizer/`. Needs
`pip install 'nmt_rela[export]'`. Commands accept the folder as a run directory, as in
`nmt-translate --model FOLDER`. From Python, in this folder:

```python
from nmt_rela import Translator

translator = Translator.load(".")
for translation in translator.translate(["One sentence in the source language."]):
    print(translation.text)
```

* Attention: $attention.
* `sha256sum -c SHA256SUMS` verifies the files of this folder; commands that load it do too.
* Lines of more than $max_length sub-words are translated in segments.
"""


def export_safetensors(
    run: RunDirectory, output: Path, *, checkpoint: str | None = None, quantization: str = QUANTIZATIONS[0]
) -> None:
    """Write the model of a checkpoint into the folder ``output``. Raises UserError if safetensors is not installed."""
    require_safetensors()
    config = run.config()
    model = run.load_model(checkpoint).to(getattr(torch, quantization))
    environment = read_json(run.environment) or {}
    write_run(output, model, config, run.load_tokenizers(), export_readme(README, config), environment)


def write_run(
    output: Path,
    model: Transformer,
    config: Config,
    tokenizers: TokenizerPair,
    readme: str,
    environment: Mapping[str, Any],
) -> None:
    """Write a model as a run directory without checkpoints, which commands accept.

    ``environment`` says where it comes from: the content of environment.json.
    """
    with atomic_directory(output) as partial:
        write_weights(partial / EXPORTED, model, vocabulary=tokenizers.fingerprint)
        (partial / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
        tokenizers.save(partial / "tokenizer")
        (partial / "README.md").write_text(readme, encoding="utf-8")
        RunDirectory(partial).environment.write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
        write_checksums(partial)
