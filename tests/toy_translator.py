"""A small translator with random weights and a real SentencePiece vocabulary."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from nmt_rela.checkpoints.checkpoint import checkpoint_name, write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory, build_model
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.config.schema import Config, DataConfig, DecodingConfig, ModelConfig, TrainingConfig
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer, TokenizerPair
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


def separate_tokenizers() -> TokenizerPair:
    """Two models of different sizes."""
    models = []
    for seed, size in ((0, 90), (1, 70)):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(400, seed=seed)), model_writer=model, vocab_size=size, model_type="bpe",
            pad_id=0, unk_id=1, eos_id=2, bos_id=3, minloglevel=2,
        )  # fmt: skip
        models.append(SentencePieceTokenizer(model.getvalue(), name="toy"))
    return TokenizerPair(*models)


def varied_run(path: Path, tokenizers: TokenizerPair | None = None, **changes: object) -> RunDirectory:
    """A run of random weights, in which every vector differs from what it was set to at first."""
    tokenizers = tokenizers or toy_tokenizers()
    run = RunDirectory(toy_run(path))
    config = run.config()
    changes = {"attention": "softmax", "decoder_layers": 3, **changes}
    model_config = replace(config.model, **changes)  # type: ignore[arg-type]
    run.config_file.write_text(config_to_yaml(replace(config, model=model_config)), encoding="utf-8")
    torch.manual_seed(3)
    if not tokenizers.is_shared:
        (run.tokenizer / "joint.model").unlink()
        tokenizers.save(run.tokenizer)
    model = build_model(model_config, tokenizers)
    last: Any = (
        model.decoder_norm if model_config.norm_order == "pre" else model.decoder[-1].feed_forward_residual.layer_norm
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.output_embedding.mul_(4.0)
        model.output_embedding[EOS].mul_(1.5)
        # CTranslate2 gives the probability of forbidden tokens to the others, we do not: let it be small.
        model.output_embedding[[PAD, UNK, BOS]] = -10.0 * last.bias.sign()
        last.bias.add_(last.bias.sign())
    state = {"vocabulary": tokenizers.fingerprint}
    write_checkpoint(run.checkpoints / checkpoint_name(2), tensors={"model": model.state_dict()}, state=state)
    return run
