"""The encoder-decoder Transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.attention.mask import CAUSAL, Mask, key_padding_mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.models.embedding import Embedding
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.layers import NORM_EPSILON, DecoderLayer, EncoderLayer

PAD, BOS = 0, 3  # as in data.vocabulary, which this room does not know

SITES = ("encoder", "decoder", "cross")


@dataclass(frozen=True, slots=True)
class Memory:
    """What the encoder leaves to the decoder."""

    states: Tensor  # [batch, source_length, dimension]
    valid: Tensor  # [batch, source_length], false at padding
    mask: Mask


class Transformer(nn.Module):
    """The Transformer (Vaswani et al. 2017) with a switchable attention; ``config.schema`` describes the arguments.

    ``attention`` is one kind, or a mapping from each of the sites encoder, decoder and cross to its kind.
    Raises ValueError when ``tied_embeddings`` is "all" and the vocabularies differ in size.
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        *,
        attention: str | Mapping[str, str] = "rela-g",
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        dimension: int = 512,
        feed_forward: int = 2048,
        heads: int = 8,
        norm: Literal["post", "pre"] = "post",
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        feed_forward_dropout: float = 0.1,
        tied_embeddings: Literal["target", "all", "none"] = "target",
        embedding_bias: bool = False,
        start: Literal["bos", "zero"] = "bos",
    ) -> None:
        super().__init__()
        kinds = {site: attention if isinstance(attention, str) else attention[site] for site in SITES}
        if tied_embeddings == "all" and source_vocabulary_size != target_vocabulary_size:
            raise ValueError(
                f"tied_embeddings 'all' needs one vocabulary for both sides, "
                f"not {source_vocabulary_size} and {target_vocabulary_size} sub-words"
            )
        self.zero_start = start == "zero"
        target_weight = _embedding_weight(target_vocabulary_size, dimension)
        source_weight = (
            target_weight if tied_embeddings == "all" else _embedding_weight(source_vocabulary_size, dimension)
        )
        bias = None
        if embedding_bias:
            bound = (3.0 / dimension) ** 0.5
            bias = nn.Parameter(torch.empty(dimension).uniform_(-bound, bound))
        self.source_embedding = Embedding(source_weight, bias=bias, dropout=embedding_dropout)
        self.target_embedding = Embedding(target_weight, bias=bias, dropout=embedding_dropout)
        self.output_weight = (
            _embedding_weight(target_vocabulary_size, dimension) if tied_embeddings == "none" else target_weight
        )
        self.encoder = nn.ModuleList(
            EncoderLayer(
                dimension=dimension,
                heads=heads,
                feed_forward=feed_forward,
                attention=kinds["encoder"],
                norm=norm,
                dropout=dropout,
                attention_dropout=attention_dropout,
                feed_forward_dropout=feed_forward_dropout,
            )
            for _ in range(encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(
                dimension=dimension,
                heads=heads,
                feed_forward=feed_forward,
                self_attention=kinds["decoder"],
                cross_attention=kinds["cross"],
                norm=norm,
                dropout=dropout,
                attention_dropout=attention_dropout,
                feed_forward_dropout=feed_forward_dropout,
            )
            for _ in range(decoder_layers)
        )
        # A stack of pre-norm layers ends un-normed; a post-norm stack does not.
        self.encoder_norm = nn.LayerNorm(dimension, eps=NORM_EPSILON) if norm == "pre" else nn.Identity()
        self.decoder_norm = nn.LayerNorm(dimension, eps=NORM_EPSILON) if norm == "pre" else nn.Identity()
        self.packed_output: Callable[[Tensor], Tensor] | None = None

    def encode(self, source: Tensor) -> Memory:
        """Source sub-words [batch, length], padded with 0, to the memory."""
        valid = source != PAD
        mask = key_padding_mask(valid, self.output_weight.dtype)
        states = self.source_embedding(source)
        for layer in self.encoder:
            states = layer(states, mask)
        return Memory(self.encoder_norm(states), valid, mask)

    def decode(self, target_input: Tensor, memory: Memory) -> Tensor:
        """Decoder states [batch, target_length, dimension] of whole targets (teacher forcing)."""
        states = self.target_embedding(target_input, zero_first=self.zero_start)
        for layer in self.decoder:
            own: MultiHeadAttention = layer.self_attention  # type: ignore[assignment]
            cross: MultiHeadAttention = layer.cross_attention  # type: ignore[assignment]
            key, value = cross.project_memory(memory.states)
            states = layer(
                states,
                lambda x, own=own: own.attend(*own.project_self(x), CAUSAL),
                lambda x, cross=cross, key=key, value=value: cross.attend(
                    cross.project_query(x), key, value, memory.mask
                ),
            )
        normed: Tensor = self.decoder_norm(states)
        return normed

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Decoder states [batch, target_length, dimension] of padded sub-words [batch, length]."""
        return self.decode(target_input, self.encode(source))

    def project(self, states: Tensor) -> Tensor:
        """Logits [..., vocabulary] of decoder states [..., dimension]."""
        return F.linear(states, self.output_weight) if self.packed_output is None else self.packed_output(states)

    def shift(self, target: Tensor) -> Tensor:
        """The decoder's input for a padded target that ends in EOS: BOS first, the last column dropped."""
        return F.pad(target[:, :-1], (1, 0), value=BOS)

    def start_decoding(self, memory: Memory, *, beams: int, max_length: int) -> IncrementalDecoder:
        """The state of a search over ``beams`` hypotheses a sentence, none longer than ``max_length``."""
        return IncrementalDecoder(self, memory.states, memory.mask, beams=beams, max_length=max_length)

    def attention_modules(self) -> dict[tuple[str, int], MultiHeadAttention]:
        """Every attention module by its site (encoder, decoder, cross) and layer (from 0)."""
        modules = {("encoder", i): layer.self_attention for i, layer in enumerate(self.encoder)}
        modules |= {("decoder", i): layer.self_attention for i, layer in enumerate(self.decoder)}
        modules |= {("cross", i): layer.cross_attention for i, layer in enumerate(self.decoder)}
        return modules  # type: ignore[return-value]  # ModuleList forgets its element type


def _embedding_weight(vocabulary_size: int, dimension: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(vocabulary_size, dimension).normal_(std=dimension**-0.5))
