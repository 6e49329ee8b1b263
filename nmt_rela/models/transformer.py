"""The encoder-decoder Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask, key_padding_mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.kernels.cpu.packed_linear import DynamicInt8Linear, PackedLinear, tensor_state
from nmt_rela.models.embedding import PositionLayout, TokenEmbedding
from nmt_rela.models.layers import NORM_EPSILON, DecoderLayer, EncoderLayer, LayerConfig, ResidualStream, add_norm

#: Where a model attends: encoder self-attention, decoder self-attention, decoder-to-encoder attention.
ATTENTION_SITES = ("encoder", "decoder", "cross")


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """What the decoder reads of the encoder."""

    hidden_states: Tensor  # [batch, source_length, d_model]
    attention_mask: AttentionMask  # hides the padding


class Transformer(nn.Module):
    """The Transformer (Vaswani et al. 2017) with a switchable attention.

    ``config.schema.ModelConfig`` describes the arguments of the same names. ``attention`` is one variant, or a mapping
    from each of `ATTENTION_SITES` to its variant. ``pad_id`` marks padding in both languages and ``bos_id`` starts
    targets. Raises ValueError when ``tied_embeddings`` is "all" and the vocabularies differ in size.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        *,
        attention: str | Mapping[str, str] = "rela-g",
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        d_model: int = 512,
        ffn_dim: int = 2048,
        num_heads: int = 8,
        norm_order: Literal["post", "pre"] = "post",
        layer_norm_epsilon: float = NORM_EPSILON,
        activation: Literal["relu", "swish", "gelu"] = "relu",
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        ffn_dropout: float = 0.1,
        tied_embeddings: Literal["target", "all", "none"] = "target",
        scale_embeddings: bool = True,
        embedding_bias: bool = False,
        output_bias: bool = False,
        positions: PositionLayout = "tensor2tensor",
        decoder_start: Literal["bos", "zero"] = "bos",
        pad_id: int = 0,
        bos_id: int = 3,
    ) -> None:
        super().__init__()
        variants = {site: attention if isinstance(attention, str) else attention[site] for site in ATTENTION_SITES}
        if tied_embeddings == "all" and source_vocab_size != target_vocab_size:
            raise ValueError(
                f"tied_embeddings 'all' needs one vocabulary for both sides, "
                f"not {source_vocab_size} and {target_vocab_size} sub-words"
            )
        self.pad_id, self.bos_id = pad_id, bos_id
        #: Whether the first decoder input is the zero vector instead of the embedding of ``bos_id``.
        self.starts_with_zeros = decoder_start == "zero"
        target_weight = _embedding_weight(target_vocab_size, d_model)
        source_weight = target_weight if tied_embeddings == "all" else _embedding_weight(source_vocab_size, d_model)
        bias = None
        if embedding_bias:
            bound = (3.0 / d_model) ** 0.5
            bias = nn.Parameter(torch.empty(d_model).uniform_(-bound, bound))
        self.source_embedding, self.target_embedding = (
            TokenEmbedding(weight, bias=bias, dropout=embedding_dropout, scaled=scale_embeddings, layout=positions)
            for weight in (source_weight, target_weight)
        )
        #: Weight of the output layer, [target vocabulary, d_model].
        self.output_embedding = (
            _embedding_weight(target_vocab_size, d_model) if tied_embeddings == "none" else target_weight
        )
        self.output_bias = nn.Parameter(torch.zeros(target_vocab_size)) if output_bias else None
        #: Replaces the output layer at inference (packed weights): hidden states → logits.
        self.packed_output_projection: PackedLinear | DynamicInt8Linear | None = None
        #: The whole model in compiled code, for inference on a CPU: a `native_decoder.NativeModel`.
        self.native: Any = None
        config = LayerConfig(
            d_model=d_model, num_heads=num_heads, ffn_dim=ffn_dim, norm_order=norm_order,
            layer_norm_epsilon=layer_norm_epsilon, activation=activation, dropout=dropout,
            attention_dropout=attention_dropout, ffn_dropout=ffn_dropout,
        )  # fmt: skip
        self.encoder = nn.ModuleList(EncoderLayer(config, attention=variants["encoder"]) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(
            DecoderLayer(config, self_attention=variants["decoder"], cross_attention=variants["cross"])
            for _ in range(decoder_layers)
        )
        # A pre-norm stack needs a final norm; a post-norm stack has just been normed.
        self.encoder_norm, self.decoder_norm = (
            nn.LayerNorm(d_model, eps=layer_norm_epsilon) if norm_order == "pre" else None for _ in range(2)
        )

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Logits [batch, target_length, vocabulary] of padded token ids [batch, length]."""
        return self.output_projection(self.decode(target_input, self.encode(source)))

    def encode(self, source: Tensor) -> EncoderOutput:
        """The encoder's output for padded token ids [batch, source_length]."""
        return self.encode_embedded(self.source_embedding(source), source != self.pad_id)

    def encode_embedded(self, embedded: Tensor, valid: Tensor) -> EncoderOutput:
        """`encode` for vectors [batch, source_length, d_model]; ``valid`` [batch, length] is false at padding."""
        # On a CPU the mask checks for sentences without a token. On a GPU that check would synchronize, and it can
        # be left out: every sentence has its EOS.
        on_gpu = valid.device.type != "cpu"
        mask = key_padding_mask(valid, self.output_embedding.dtype, every_row_sees_a_key=on_gpu)
        x = ResidualStream.of(self.source_embedding.add_positions(embedded))
        for layer in self.encoder:
            x = layer(x, mask)
        return EncoderOutput(final_states(self.encoder_norm, x), mask)

    def decode(self, target_input: Tensor, encoder_output: EncoderOutput) -> Tensor:
        """Hidden states [batch, target_length, d_model] of whole targets (teacher forcing)."""
        return self.decode_embedded(self.embed_target(target_input), encoder_output)

    def decode_embedded(self, embedded: Tensor, encoder_output: EncoderOutput) -> Tensor:
        """`decode` for vectors [batch, target_length, d_model]."""
        x = ResidualStream.of(self.target_embedding.add_positions(embedded))
        for layer in self.decoder:
            x = layer(x, encoder_output.hidden_states, CAUSAL_MASK, encoder_output.attention_mask)
        return final_states(self.decoder_norm, x)

    def embed_target(self, tokens: Tensor, *, offset: int = 0) -> Tensor:
        """Vectors [batch, length, d_model] of decoder inputs [batch, length], the first at position ``offset``."""
        embedded: Tensor = self.target_embedding(tokens)
        if self.starts_with_zeros and offset == 0:
            embedded = F.pad(embedded[:, 1:], (0, 0, 1, 0))
        return embedded

    def output_projection(self, hidden_states: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., d_model]."""
        packed = self.packed_output_projection
        if packed is None:
            return F.linear(hidden_states, self.output_embedding, self.output_bias)
        if packed.bias is not self.output_bias or packed.weight_state != tensor_state(self.output_embedding):
            with torch.inference_mode(False):  # they were changed
                packed = type(packed)(self.output_embedding, self.output_bias)
            self.packed_output_projection = packed
        output: Tensor = packed(hidden_states)
        return output

    def shift_right(self, target: Tensor) -> Tensor:
        """The decoder input of a padded target that ends in EOS: BOS first, the last column dropped."""
        return F.pad(target[:, :-1], (1, 0), value=self.bos_id)

    def attention_modules(self) -> dict[tuple[str, int], MultiHeadAttention]:
        """Every attention module by site and layer, counted from 0."""
        modules = {("encoder", i): layer.self_attention for i, layer in enumerate(self.encoder)}
        modules |= {("decoder", i): layer.self_attention for i, layer in enumerate(self.decoder)}
        modules |= {("cross", i): layer.cross_attention for i, layer in enumerate(self.decoder)}
        return modules  # type: ignore[return-value]  # ModuleList forgets its element type


def final_states(norm: nn.LayerNorm | None, x: ResidualStream) -> Tensor:
    """The hidden states after the last layer and, in a pre-norm stack, the final norm: [batch, length, d_model]."""
    return x.matmul_input if norm is None else add_norm(norm, x.sums).matmul_input


def _embedding_weight(vocab_size: int, d_model: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(vocab_size, d_model).normal_(std=d_model**-0.5))
