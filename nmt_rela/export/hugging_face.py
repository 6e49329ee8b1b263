"""Export to Hugging Face's transformers: a folder that its Auto classes load with ``trust_remote_code``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.export.model_card import CARD, model_card
from nmt_rela.generation.decoding_step import SUPPRESSED_TOKENS
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import atomic_directory, write_checksums

#: Storage types of the weights, the default first.
QUANTIZATIONS = ("float32", "float16", "bfloat16")

_USAGE = """\
Needs `pip install 'nmt_rela[huggingface]'`: the three Python files of this folder import the model from there. In this
folder:

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained(".", trust_remote_code=True)
batch = tokenizer(["One sentence in the source language."], return_tensors="pt", padding=True)
for ids in model.generate(**batch):
    print(tokenizer.decode(ids, skip_special_tokens=True))
```

* Attention: $attention. `output_attentions=True` returns the weights before dropout. Rows of ReLA do not sum to 1 and
  may be 0.
* The length penalty of transformers is length^a; that of nmt_rela is ((5 + length) / 6)^a, here with
  a = $length_penalty. With `length_penalty=0` neither has an effect.
* Text is plain and detokenized, one sentence per line of at most $max_length sub-words; the tokenizer cuts nothing
  unless `truncation=True` is given. A blank line is translated too.
* `sha256sum -c SHA256SUMS` verifies the files of this folder.
"""


def export_hugging_face(
    run: RunDirectory, output: Path, *, checkpoint: str | None = None, quantization: str = QUANTIZATIONS[0]
) -> None:
    """Write the model of a checkpoint into the folder ``output``. Raises UserError if transformers is not installed."""
    try:
        from transformers import GenerationConfig

        from nmt_rela.export.transformers_model import NmtRelaConfig, NmtRelaForConditionalGeneration
        from nmt_rela.export.transformers_tokenizer import NORMALIZATION_SETTINGS, NmtRelaTokenizer
    except ImportError as error:
        raise UserError(
            f"exporting to transformers needs transformers and safetensors ({error}); "
            "run: pip install 'nmt_rela[huggingface]'"
        ) from error
    config, tokenizers, trained = run.config(), run.load_tokenizers(), run.load_model(checkpoint)
    sizes = {"source_vocab_size": tokenizers.source.size, "vocab_size": tokenizers.target.size}
    model = NmtRelaForConditionalGeneration(NmtRelaConfig(**sizes, **asdict(config.model)))
    model.transformer.load_state_dict(trained.state_dict())
    decoding = config.decoding
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=BOS, decoder_start_token_id=BOS,
        num_beams=decoding.beam_size, length_penalty=decoding.length_penalty, early_stopping=decoding.early_stopping,
        max_new_tokens=config.data.max_length + decoding.max_length_offset,
        min_new_tokens=max(1, decoding.min_length), suppress_tokens=list(SUPPRESSED_TOKENS),
    )  # fmt: skip
    with atomic_directory(output) as partial:
        tokenizers.save(partial)
        settings = {name: getattr(config.data, name) for name in NORMALIZATION_SETTINGS}
        first = next(partial.glob("*.model"))
        tokenizer = NmtRelaTokenizer(str(first), model_max_length=config.data.max_length, **settings)
        tokenizer.save_pretrained(partial)
        model.to(getattr(torch, quantization)).save_pretrained(partial)
        (partial / CARD).write_text(model_card(run, library="transformers", usage=_USAGE), encoding="utf-8")
        write_checksums(partial)
