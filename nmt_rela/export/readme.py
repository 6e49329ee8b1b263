"""The README of an exported model."""

from __future__ import annotations

from string import Template

from nmt_rela.config.schema import Config
from nmt_rela.export.ctranslate2 import POSITIONS


def readme(format: str, config: Config) -> str:
    """The README.md of a model exported as ``ctranslate2`` or ``safetensors``; its code runs in that folder."""
    data, attention = config.data, config.model.attention
    text = _PAGES[format].substitute(
        source=data.source_language,
        target=data.target_language,
        attention=attention
        if isinstance(attention, str)
        else f"{attention.encoder} in the encoder, {attention.decoder} in the decoder, {attention.cross} between them",
        beam=config.decoding.beam_size,
        length_penalty=config.decoding.length_penalty,
        max_length=data.max_length,
        positions=f"{POSITIONS:,}",
    )
    if data.romanian_diacritics != "none" and "ro" in (data.source_language, data.target_language):
        mode = data.romanian_diacritics
        text += f"* Romanian text was normalized with `data.romanian_diacritics: {mode}`; translations are too.\n"
    return text


_CTRANSLATE2 = """\
# $source to $target, for CTranslate2

Made by nmt-export. Needs `pip install ctranslate2 sentencepiece`. In this folder:

```python
import ctranslate2
import sentencepiece

translator = ctranslate2.Translator(".", device="cpu")
source = sentencepiece.SentencePieceProcessor(model_file="source.model")
target = sentencepiece.SentencePieceProcessor(model_file="target.model")

lines = ["One sentence in the source language."]
results = translator.translate_batch(
    source.encode(lines, out_type=str),
    beam_size=$beam,
    length_penalty=$length_penalty,
    disable_unk=True,
    suppress_sequences=[["<pad>"], ["<s>"]],
)
for result in results:
    print(target.decode(result.hypotheses[0]))
```

* CTranslate2 adds the end of the source sentence itself (`add_source_eos` in config.json) and starts with `<s>`.
* Its length penalty is length^a; that of nmt_rela is ((5 + length) / 6)^a, here with a = $length_penalty. The two rank
  long sentences the same way, short ones not; with a = 0 neither has an effect.
* The model was trained with sentences of up to $max_length sub-words: split longer lines first. Its position table has
  $positions rows.
"""

_SAFETENSORS = """\
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
* Lines of more than $max_length sub-words are translated in segments.
"""

_PAGES = {"ctranslate2": Template(_CTRANSLATE2), "safetensors": Template(_SAFETENSORS)}
