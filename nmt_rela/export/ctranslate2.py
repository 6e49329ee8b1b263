"""Export to CTranslate2: model.bin, config.json and vocabularies, the SentencePiece models, and a README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import ModelConfig
from nmt_rela.data.tokenizer import BOS, EOS, UNK, SentencePieceTokenizer, TokenizerPair
from nmt_rela.export.model_card import export_readme
from nmt_rela.generation.alignment import default_alignment_heads
from nmt_rela.models.embedding import TokenEmbedding
from nmt_rela.models.layers import FeedForward, SublayerConnection
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError, UserError
from nmt_rela.utils.files import atomic_directory, write_checksums

if TYPE_CHECKING:
    from ctranslate2.specs import TransformerSpec

#: Storage types of the weights, the default first.
QUANTIZATIONS = (
    "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16",
)  # fmt: skip
#: Longest sentence, in sub-words, of an exported model: the rows of its position table.
POSITIONS = 2048
_SITES = {
    "encoder": "self-attention of the encoder",
    "decoder": "self-attention of the decoder",
    "cross": "cross-attention",
}

_README = """\
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
* `sha256sum -c SHA256SUMS` verifies the files of this folder.
"""


def export_ctranslate2(
    run: RunDirectory, output: Path, *, checkpoint: str | None = None, quantization: str = QUANTIZATIONS[0]
) -> None:
    """Write the model of a checkpoint into the folder ``output``.

    Raises ConfigError with all reasons for a model that CTranslate2 does not support, UserError if it is not installed.
    """
    config = run.config()
    if reasons := unsupported_reasons(config.model):
        raise ConfigError(
            f"{run.path}: CTranslate2 cannot run this model: {'; '.join(reasons)} "
            "(--format safetensors supports every attention)"
        )
    tokenizers = run.load_tokenizers()
    try:
        spec = transformer_spec(run.load_model(checkpoint), tokenizers, alignment_heads=default_alignment_heads(config))
    except ImportError as error:
        raise UserError("exporting to CTranslate2 needs ctranslate2; run: pip install 'nmt_rela[export]'") from error
    spec.optimize(quantization=quantization)
    with atomic_directory(output) as partial:
        spec.save(str(partial))
        tokenizers.source.save(partial / "source.model")
        tokenizers.target.save(partial / "target.model")
        readme = export_readme(_README, config, positions=f"{POSITIONS:,}")
        (partial / "README.md").write_text(readme, encoding="utf-8")
        write_checksums(partial)


def unsupported_reasons(config: ModelConfig) -> list[str]:
    """All reasons why CTranslate2 cannot run a model; empty if every attention is softmax.

    All other settings have an exact counterpart: both norm orders, any tying, positions and embedding bias as a table,
    a zero start vector.
    """
    variants = {
        site: config.attention if isinstance(config.attention, str) else getattr(config.attention, site)
        for site in _SITES
    }
    reasons = []
    for site, name in _SITES.items():
        if variants[site] != "softmax":
            reasons.append(f"{name} uses {variants[site]}; CTranslate2 supports softmax only")
        if variants[site].startswith("rela"):
            reasons.append(f"{name} has a norm before its output projection; CTranslate2 has none there")
    return reasons


def transformer_spec(
    model: Transformer, tokenizers: TokenizerPair, *, alignment_heads: tuple[int, int]
) -> TransformerSpec:
    """The model and its tokenizers as CTranslate2's specification of a Transformer, validated.

    ``alignment_heads``: the layer that word links are read from, and how many of its heads. ``model`` must have no
    `unsupported_reasons`. Raises ImportError if ctranslate2 is missing.
    """
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.common_spec import Activation

    encoder: Any = model.encoder  # ModuleList forgets its element type
    decoder: Any = model.decoder
    cross = model.attention_modules()["cross", 0]
    spec = TransformerSpec.from_config(
        (len(model.encoder), len(model.decoder)),
        cross.num_heads,
        pre_norm=model.decoder_norm is not None,
        activation={"relu": Activation.RELU, "swish": Activation.SWISH, "gelu": Activation.GELU}[
            encoder[0].feed_forward.activation
        ],
        alignment_layer=alignment_heads[0],
        alignment_heads=alignment_heads[1],
    )
    _set_embedding(spec.encoder, spec.encoder.embeddings[0], model.source_embedding, zero_start=False)
    _set_embedding(spec.decoder, spec.decoder.embeddings, model.target_embedding, zero_start=model.starts_with_zeros)
    spec.decoder.start_from_zero_embedding = model.starts_with_zeros
    for to, layer in zip(spec.encoder.layer, encoder, strict=True):
        own = layer.self_attention
        _set_attention(to.self_attention, [own.qkv_proj, own.out_proj], layer.self_attention_residual)
        _set_feed_forward(to.ffn, layer.feed_forward, layer.feed_forward_residual)
    for to, layer in zip(spec.decoder.layer, decoder, strict=True):
        own, memory = layer.self_attention, layer.cross_attention
        _set_attention(to.self_attention, [own.qkv_proj, own.out_proj], layer.self_attention_residual)
        _set_attention(to.attention, [memory.q_proj, memory.kv_proj, memory.out_proj], layer.cross_attention_residual)
        _set_feed_forward(to.ffn, layer.feed_forward, layer.feed_forward_residual)
    for to, norm in ((spec.encoder, model.encoder_norm), (spec.decoder, model.decoder_norm)):
        if norm is not None:
            _set_norm(to.layer_norm, norm)
    spec.decoder.projection.weight = _values(model.output_embedding)
    if model.output_bias is not None:
        spec.decoder.projection.bias = _values(model.output_bias)
    spec.register_source_vocabulary(_tokens(tokenizers.source))
    target = _tokens(tokenizers.target)
    spec.register_target_vocabulary(target)
    spec.config.unk_token, spec.config.eos_token, spec.config.bos_token = target[UNK], target[EOS], target[BOS]
    spec.config.decoder_start_token = target[BOS]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = encoder[0].feed_forward_residual.layer_norm.eps
    spec.validate()
    return spec


def _set_embedding(stack: Any, spec: Any, embedding: TokenEmbedding, *, zero_start: bool) -> None:
    """Embeddings scaled by √d, and the table of vectors that are added at each position."""
    spec.weight = _values(embedding.weight)
    stack.scale_embeddings = embedding.scale != 1.0
    table = embedding.signals(POSITIONS)
    if embedding.bias is not None:
        bias = embedding.bias.detach().float().cpu()
        table[int(zero_start) :] += bias  # a zero start has no bias either
    stack.position_encodings.encodings = table.numpy()


def _set_attention(spec: Any, linears: Sequence[nn.Linear], residual: SublayerConnection) -> None:
    # Both fuse projections in the same order: query, key, value.
    for to, linear in zip(spec.linear, linears, strict=True):
        _set_linear(to, linear)
    _set_norm(spec.layer_norm, residual.layer_norm)


def _set_feed_forward(spec: Any, feed_forward: FeedForward, residual: SublayerConnection) -> None:
    _set_linear(spec.linear_0, feed_forward.fc1)
    _set_linear(spec.linear_1, feed_forward.fc2)
    _set_norm(spec.layer_norm, residual.layer_norm)


def _set_linear(spec: Any, linear: nn.Linear) -> None:
    spec.weight, spec.bias = _values(linear.weight), _values(linear.bias)


def _set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _values(norm.weight), _values(norm.bias)


def _values(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().numpy()


def _tokens(tokenizer: SentencePieceTokenizer) -> list[str]:
    return list(tokenizer.vocabulary)
