"""A small translator with random weights and a real SentencePiece vocabulary."""

from __future__ import annotations

import io
from functools import lru_cache

import sentencepiece
import torch

from nmt_rela.config.schema import DecodingConfig
from nmt_rela.data.vocabulary import EOS, Vocabularies, Vocabulary
from nmt_rela.inference.translator import Translator
from nmt_rela.model.transformer import Transformer

TEXT = """der die das ein eine kleine grosse alte neue Hund Katze Haus Baum Strasse Frau Mann Kind läuft schläft sieht
findet kauft über unter neben auf mit ohne heute morgen gestern schnell langsam immer nie"""
WORDS = TEXT.split()


def sentences(count: int, *, seed: int = 0, longest: int = 12) -> list[str]:
    """Nonsense of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(1, longest + 1, (1,), generator=generator))
        made.append(
            " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist()) + "."
        )
    return made


@lru_cache(maxsize=1)
def vocabularies() -> Vocabularies:
    """One BPE model for both sides."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(400)), model_writer=model, vocab_size=90, model_type="bpe",
        pad_id=0, unk_id=1, eos_id=2, bos_id=3, minloglevel=2,
    )  # fmt: skip
    joint = Vocabulary(model.getvalue(), name="toy")
    return Vocabularies(joint, joint)


def toy_model(*, attention: str = "softmax", seed: int = 0, layers: int = 2) -> Transformer:
    """Random weights, sharpened so that hypotheses differ clearly."""
    torch.manual_seed(seed)
    size = vocabularies().source.size
    model = Transformer(
        size, size, attention=attention, encoder_layers=layers, decoder_layers=layers, dimension=32, feed_forward=64,
        heads=4, tied_embeddings="none",
    )  # fmt: skip
    with torch.no_grad():
        model.output_weight.mul_(4.0)
        model.output_weight[EOS].mul_(2.0)  # or hardly a sentence would end
    return model.eval()


def toy_translator(
    *, attention: str = "softmax", extra_length: int = 5, batch_tokens: int = 400, max_source_length: int = 256
) -> Translator:
    """A translator whose translations are short nonsense."""
    decoding = DecodingConfig(extra_length=extra_length, batch_tokens=batch_tokens)
    return Translator(
        toy_model(attention=attention), vocabularies(), decoding=decoding, max_source_length=max_source_length
    )
