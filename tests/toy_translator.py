"""A small translator with random weights and a real SentencePiece vocabulary."""

from __future__ import annotations

import io
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import sentencepiece
import torch

from nmt_rela.checkpoints.checkpoint import checkpoint_name, write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import Config, DataConfig, DecodingConfig, ModelConfig, TrainingConfig
from nmt_rela.data.tokenizer import EOS, SentencePieceTokenizer, TokenizerPair
from nmt_rela.generation.options import TranslationOptions
from nmt_rela.generation.translator import Translator
from nmt_rela.models.transformer import Transformer

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
def toy_tokenizers() -> TokenizerPair:
    """One BPE model for both sides."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(400)), model_writer=model, vocab_size=90, model_type="bpe",
        pad_id=0, unk_id=1, eos_id=2, bos_id=3, minloglevel=2,
    )  # fmt: skip
    joint = SentencePieceTokenizer(model.getvalue(), name="toy")
    return TokenizerPair(joint, joint)


def _model_config(attention: str, layers: int) -> ModelConfig:
    return ModelConfig(
        attention=attention, encoder_layers=layers, decoder_layers=layers, d_model=32, ffn_dim=64, num_heads=4,
        tied_embeddings="none",
    )  # fmt: skip


def toy_model(*, attention: str = "softmax", seed: int = 0, layers: int = 2) -> Transformer:
    """Random weights, sharpened so that hypotheses differ clearly."""
    torch.manual_seed(seed)
    size = toy_tokenizers().source.size
    model = Transformer(size, size, **asdict(_model_config(attention, layers)))
    with torch.no_grad():
        model.output_embedding.mul_(4.0)
        model.output_embedding[EOS].mul_(2.0)  # or hardly a sentence would end
    return model.eval()


def toy_translator(
    *, attention: str = "softmax", max_length_offset: int = 5, batch_tokens: int = 400, max_source_length: int = 256
) -> Translator:
    """A translator whose translations are short nonsense."""
    options = TranslationOptions(max_length_offset=max_length_offset, batch_tokens=batch_tokens)
    return Translator(
        toy_model(attention=attention), toy_tokenizers(), options=options, max_source_length=max_source_length
    )


def toy_run(path: Path, *, seed: int = 0, max_length: int = 64) -> Path:
    """A run directory with two checkpoints of random weights."""
    config = Config(
        run_dir=str(path),
        data=DataConfig(
            task="none", source_language="a", target_language="b", data_dir=str(path / "data"), max_length=max_length
        ),
        model=_model_config("rela-g", 2),
        training=TrainingConfig(),
        decoding=DecodingConfig(max_length_offset=5),
    )
    run = RunDirectory(path)
    path.mkdir()
    run.config_file.write_text(config_to_yaml(config), encoding="utf-8")
    toy_tokenizers().save(run.tokenizer)
    for update in (1, 2):
        weights = toy_model(attention="rela-g", seed=seed + update).state_dict()
        state = {"vocabulary": toy_tokenizers().fingerprint}
        write_checkpoint(run.checkpoints / checkpoint_name(update), tensors={"model": weights}, state=state)
    run.link_checkpoint("last", run.checkpoints / checkpoint_name(2))
    return path
