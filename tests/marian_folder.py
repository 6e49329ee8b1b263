"""A Marian model with random weights and real SentencePiece models, in the format of transformers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from toy_translator import sentences

TARGET_WORDS = str.maketrans("aeiou", "ouaei")


def target_sentences(count: int, *, seed: int = 0, longest: int = 12) -> list[str]:
    """Nonsense of another language, in which some sub-words are the same."""
    return [line.translate(TARGET_WORDS) for line in sentences(count, seed=seed, longest=longest)]


def _spm(lines: list[str], model_type: str) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=80, model_type=model_type, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write_marian(folder: Path, *, separate: bool = False, model_type: str = "unigram", **settings: Any) -> Any:
    """Write the folder; the model of transformers."""
    import transformers

    folder.mkdir()
    spms = [_spm(lines, model_type) for lines in (sentences(400), target_sentences(400))]
    for spm, side in zip(spms, ("source", "target"), strict=True):
        (folder / f"{side}.spm").write_bytes(spm.serialized_model_proto())
    pieces = [[spm.id_to_piece(i) for i in range(3, spm.get_piece_size())] for spm in spms]
    # As Marian's own: the end first, padding last, and not all sub-words of SentencePiece.
    joint = sorted(set(pieces[0][5:] + pieces[1]))
    lists = [sorted(side) for side in pieces] if separate else [joint, joint]
    vocabularies = [["</s>", "<unk>", ">>de<<", *side, "<pad>"] for side in lists]
    for vocabulary, name in zip(vocabularies, ("vocab", "target_vocab"), strict=True):
        if separate or name == "vocab":
            ids = {piece: i for i, piece in enumerate(vocabulary)}
            (folder / f"{name}.json").write_text(json.dumps(ids), encoding="utf-8")
    size, target_size = map(len, vocabularies)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"source_lang": "de", "target_lang": "en", "separate_vocabs": separate}), encoding="utf-8"
    )
    config = transformers.MarianConfig(**{
        "vocab_size": size, "decoder_vocab_size": target_size, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "pad_token_id": target_size - 1, "eos_token_id": 0, "decoder_start_token_id": target_size - 1,
        "max_position_embeddings": 64, "activation_function": "swish", "scale_embedding": True,
        "share_encoder_decoder_embeddings": not separate,  # words: allow
        "forced_eos_token_id": None, "init_std": 0.3, **settings,
    })  # fmt: skip
    torch.manual_seed(1)
    model = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "encoder_attn" in name:  # or translations would not depend on their sources
                parameter.mul_(3.0)
        # Outputs unlike inputs, or a tied model would repeat itself.
        last = model.model.decoder.layers[-1].final_layer_norm.weight
        last.mul_(torch.randn_like(last).sign())
        model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
        model.final_logits_bias[0, 0] += 3.0  # or hardly a sentence would end
    model.save_pretrained(folder)
    return model
