"""The configuration and the model class of transformers for a run of any attention.

Exported folders import this module by its name. Releases of transformers call the keys and values of earlier steps
``past_key_values`` or ``cache``: both are accepted, and the output has the name that the installed release uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask, attention_mask, key_padding_mask
from nmt_rela.config.builder import check_fields
from nmt_rela.config.schema import AttentionBySite, ModelConfig
from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.models.embedding import TokenEmbedding
from nmt_rela.models.layers import ResidualStream
from nmt_rela.models.transformer import Transformer, final_states
from nmt_rela.utils.errors import CheckpointError, ConfigError

#: A file of an exported folder, by the class that it holds.
FILES = {
    "NmtRelaConfig": "configuration_nmt_rela",
    "NmtRelaForConditionalGeneration": "modeling_nmt_rela",
    "NmtRelaTokenizer": "tokenization_nmt_rela",
}
_FILE = '''\
"""{name} of the package nmt_rela, for transformers."""

try:
    from {module} import {name}
except ImportError as error:
    raise ImportError("this model needs nmt_rela; run: pip install 'nmt_rela[huggingface]'") from error

__all__ = ["{name}"]
'''
#: Labels that do not count.
_IGNORED = -100
_CACHE = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"


def write_module(directory: str | Path, cls: type) -> None:
    """Write the file of an exported folder that imports a class from this package."""
    text = _FILE.format(name=cls.__name__, module=cls.__module__)
    (Path(directory) / f"{FILES[cls.__name__]}.py").write_text(text, encoding="utf-8")


class NmtRelaConfig(PretrainedConfig):
    """The settings of ``model`` by their own names, and the sizes of the vocabularies."""

    model_type = "nmt_rela"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model", "num_hidden_layers": "encoder_layers", "num_attention_heads": "num_heads",
    }  # fmt: skip

    def __init__(self, source_vocab_size: int = 4, vocab_size: int = 4, **kwargs: Any) -> None:
        self.source_vocab_size, self.vocab_size = source_vocab_size, vocab_size
        for setting in fields(ModelConfig):
            setattr(self, setting.name, kwargs.pop(setting.name, setting.default))
        special = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": BOS, "decoder_start_token_id": BOS}
        name = "NmtRelaForConditionalGeneration"
        auto_map = {
            "AutoConfig": f"{FILES['NmtRelaConfig']}.NmtRelaConfig",
            "AutoModelForSeq2SeqLM": f"{FILES[name]}.{name}",
        }
        kwargs = {"auto_map": auto_map, "is_encoder_decoder": True, "use_cache": True, **special, **kwargs}
        kwargs["tie_word_embeddings"] = bool(self.tied_weights)
        super().__init__(**kwargs)

    @property
    def model_settings(self) -> dict[str, Any]:
        """The keyword arguments of `Transformer`. Raises ConfigError for a value that is not accepted."""
        settings = {setting.name: getattr(self, setting.name) for setting in fields(ModelConfig)}
        attention = settings["attention"]
        if isinstance(attention, dict):
            check_fields(by_site := AttentionBySite(**attention))
            attention = by_site
        check_fields(ModelConfig(**{**settings, "attention": attention}))
        return settings

    @property
    def tied_weights(self) -> dict[str, str]:
        """Parameters that are the same as another one, by their names."""
        tied = {} if self.tied_embeddings == "none" else {"output_embedding": "target_embedding.weight"}
        if self.tied_embeddings == "all":
            tied["source_embedding.weight"] = "target_embedding.weight"
        if self.embedding_bias:
            tied["source_embedding.bias"] = "target_embedding.bias"
        return {f"transformer.{name}": f"transformer.{source}" for name, source in tied.items()}

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """config.json, and the files that name the classes."""
        super().save_pretrained(save_directory, **kwargs)
        for cls in (NmtRelaConfig, NmtRelaForConditionalGeneration):
            write_module(save_directory, cls)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: ``save_pretrained`` writes the files; transformers would copy this module."""


class NmtRelaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A `Transformer` with the interface of transformers; attention weights come from its hook points."""

    config_class = NmtRelaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_cache_class = True

    def __init__(self, config: NmtRelaConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(
            config.source_vocab_size, config.vocab_size, pad_id=PAD, bos_id=BOS, **config.model_settings
        )
        # Hooks on them stay. They are no children: their weights have one name, that in `Transformer`.
        self._views = _Encoder(self), _InputEmbeddings(self.transformer)
        self._tied_weights_keys = config.tied_weights
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but a folder that lacks weights is an error. Raises CheckpointError."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(map(str, info[problem])):
                raise CheckpointError(f"{args[0] if args else cls}: {problem.replace('_', ' ')}: {', '.join(names)}")
        for module in model.modules():
            if isinstance(module, TokenEmbedding):  # buffers without a place in the file are lost
                module.positions = module.signals(len(module.positions)).to(module.weight)
        return (model, info) if wants_info else model

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing, as for the configuration."""

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `Transformer` has initialized itself, and weights are never missing."""

    def tie_weights(self, missing_keys: set[str] | None = None, **_kwargs: Any) -> None:
        """Make tied parameters one again, and take them from ``missing_keys``."""
        # The library's own form would lengthen the bias of an embedding to the size of the vocabulary.
        missing = set() if missing_keys is None else missing_keys
        for name, source in self.config.tied_weights.items():
            present, other = (name, source) if source in missing and name not in missing else (source, name)
            module, _, attribute = other.rpartition(".")
            setattr(self.get_submodule(module), attribute, self.get_parameter(present))
            if present not in missing:
                missing.discard(other)

    def get_encoder(self, *_args: Any, **_kwargs: Any) -> nn.Module:
        """The encoder as a module of its own."""
        return self._views[0]

    def get_decoder(self) -> nn.Module:
        """The layers of the decoder."""
        return self.transformer.decoder

    def get_input_embeddings(self) -> nn.Module:
        """Token ids to vectors, scaled, without positions.

        Tools embed source and target by this one function. Where the two sides have different vectors, it gives both,
        one behind the other; ``forward`` takes the half that it needs, and the other has no gradient.
        """
        return self._views[1]

    def resize_token_embeddings(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refused: the vocabulary is that of the run. Raises ConfigError."""
        raise ConfigError("the vocabulary of an exported model cannot be resized")

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Decoder inputs [batch, length] for labels, in which -100 is padding."""
        return self.transformer.shift_right(labels.masked_fill(labels == _IGNORED, PAD))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Logits [batch, target length, vocabulary] and what is asked for, as for any encoder-decoder model.

        Without ``attention_mask``, padding ids of the source are hidden, also those of ``encoder_outputs``. With
        ``labels`` (padding: -100) the loss is the mean cross-entropy, or its sum over ``num_items_in_batch``.
        ``past_key_values`` and ``cache`` are the same.
        Raises ConfigError for caches of fixed length.
        """
        if unknown := sorted(kwargs.keys() - {"cache_position"}):
            raise TypeError(f"forward() has no argument {', '.join(unknown)}")
        model = self.transformer
        cache = past_key_values if cache is None else cache
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if cache is None and use_cache and labels is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if isinstance(getattr(cache, "self_attention_cache", None), StaticCache):
            raise ConfigError("a cache of fixed length is not supported; accepted: EncoderDecoderCache of DynamicCache")
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(
                input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states
            )
        hidden_states = encoder_outputs[0]  # [batch, source length, d_model]
        if attention_mask is None:
            attention_mask = getattr(encoder_outputs, "attention_mask", None)
        valid = _valid(attention_mask, input_ids, hidden_states)
        past = 0 if cache is None else cache.get_seq_length()
        if decoder_inputs_embeds is None:
            if decoder_input_ids is None:
                raise TypeError("forward() needs decoder_input_ids, decoder_inputs_embeds or labels")
            embedded = model.embed_target(decoder_input_ids, offset=past)
        else:
            embedded = decoder_inputs_embeds[..., -model.target_embedding.weight.shape[1] :]
            if model.starts_with_zeros and past == 0:
                embedded = F.pad(embedded[:, 1:], (0, 0, 1, 0))
        self_mask = _decoder_mask(decoder_attention_mask, embedded, past)
        cross_mask = key_padding_mask(valid, hidden_states.dtype)
        with _record(model.decoder, attentions=output_attentions, hidden_states=output_hidden_states) as recorded:
            x = ResidualStream.of(model.target_embedding.add_positions(embedded, offset=past))
            for index, layer in enumerate(model.decoder):
                layer_cache = None if cache is None else _LayerCache(cache, index, layer, hidden_states)
                x = layer(x, hidden_states, self_mask, cross_mask, layer_cache)
        last = final_states(model.decoder_norm, x)
        logits = model.output_projection(last)
        loss = None
        if labels is not None:
            counted = (labels != _IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum") / counted
        output = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            decoder_hidden_states=(*recorded["states"], last) if output_hidden_states else None,
            decoder_attentions=tuple(recorded["self_attention"]) or None,
            cross_attentions=tuple(recorded["cross_attention"]) or None,
            encoder_last_hidden_state=hidden_states,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
            **{_CACHE: cache},
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()


@dataclass
class _EncoderOutput(BaseModelOutput):
    """What the encoder gives, and which positions hold tokens: ``generate`` passes nothing else to the decoder."""

    attention_mask: Tensor | None = None


class _Encoder(nn.Module):
    """The encoder, as ``generate`` calls it."""

    def __init__(self, model: NmtRelaForConditionalGeneration) -> None:
        super().__init__()
        self.embedding, self.layers = model.transformer.source_embedding, model.transformer.encoder
        self.norm = model.transformer.encoder_norm
        self._model = (model,)  # no child of this module

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        (model,) = self._model
        if inputs_embeds is None:
            if input_ids is None:
                raise TypeError("the encoder needs input_ids or inputs_embeds")
            embedded = self.embedding(input_ids)
        else:
            embedded = inputs_embeds[..., : self.embedding.weight.shape[1]]
        valid = _valid(attention_mask, input_ids, embedded)
        wanted = {"attentions": output_attentions, "hidden_states": output_hidden_states}
        with _record(self.layers, **wanted) as recorded:
            last = model.transformer.encode_embedded(embedded, valid).hidden_states
        states = (*recorded["states"], last) if output_hidden_states else None
        attentions = tuple(recorded["self_attention"]) or None
        if return_dict is False:
            return BaseModelOutput(last, states, attentions).to_tuple()
        return _EncoderOutput(last, states, attentions, valid)


class _InputEmbeddings(nn.Module):
    """Token ids to [..., d_model], or [..., 2 · d_model] where source and target differ: as source and as target."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        source, target = model.source_embedding, model.target_embedding
        self.sides = nn.ModuleList([source] if source.weight is target.weight else [source, target])

    @property
    def weight(self) -> Tensor:
        """One row per token, of the width of the vectors; zeros where one vocabulary is the larger one."""
        weights = [side.weight for side in self._embeddings]
        size = max(map(len, weights))
        return torch.cat([F.pad(weight, (0, 0, 0, size - len(weight))) for weight in weights], dim=1)

    @property
    def embedding_dim(self) -> int:
        """The width of the vectors."""
        return sum(side.weight.shape[1] for side in self._embeddings)

    @property
    def _embeddings(self) -> list[TokenEmbedding]:
        return [side for side in self.sides if isinstance(side, TokenEmbedding)]

    def forward(self, tokens: Tensor) -> Tensor:
        # An id beyond one vocabulary belongs to the other, whose half is used.
        return torch.cat([side(tokens.clamp(max=len(side.weight) - 1)) for side in self._embeddings], dim=-1)


class _LayerCache:
    """The keys and values of one layer in a cache of transformers, as `DecoderLayer` uses a `LayerCache`."""

    def __init__(self, cache: Any, index: int, layer: nn.Module, encoder_hidden_states: Tensor) -> None:
        self._self, self._index = cache.self_attention_cache, index
        of_cross = cache.cross_attention_cache
        if not cache.is_updated.get(index):
            of_cross.update(*layer.cross_attention.project_kv(encoder_hidden_states), index)  # type: ignore[operator,union-attr]
            cache.is_updated[index] = True
        self.cross = of_cross.layers[index].keys, of_cross.layers[index].values

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions [batch, heads, new, head_dim]; return all."""
        keys, values = self._self.update(key, value, self._index)
        return keys, values


@contextmanager
def _record(
    layers: nn.Module, *, attentions: bool | None, hidden_states: bool | None
) -> Iterator[Mapping[str, list[Tensor]]]:
    """The attention weights, [batch, heads, queries, keys], and the inputs of all layers that run inside the block."""
    found: dict[str, list[Tensor]] = {"self_attention": [], "cross_attention": [], "states": []}
    with ExitStack() as handles:
        for layer in layers.children():
            for name in ("self_attention", "cross_attention") if attentions else ():
                if module := getattr(layer, name, None):
                    keep = found[name].append
                    handles.enter_context(
                        module.hook_pattern.register_forward_hook(lambda _module, _inputs, x, keep=keep: keep(x))
                    )
            if hidden_states:
                handles.enter_context(
                    layer.register_forward_pre_hook(lambda _module, inputs: found["states"].append(inputs[0].sums))
                )
        yield found


def _valid(attention_mask: Tensor | None, tokens: Tensor | None, vectors: Tensor) -> Tensor:
    """Whether each source position holds a token: [batch, source length]."""
    if attention_mask is not None:
        return attention_mask.bool()
    if tokens is not None:
        return tokens != PAD
    return torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)


def _decoder_mask(padding: Tensor | None, embedded: Tensor, past: int) -> AttentionMask | None:
    """The causal mask of new positions after ``past`` ones, and of padding [batch, past + new] among all of them."""
    new = embedded.shape[1]
    if padding is None or bool(padding.all()):
        if past == 0:
            return CAUSAL_MASK
        if new == 1:
            return None  # the newest position sees all
        padding = torch.ones(1, past + new, device=embedded.device)
    causal = torch.ones(new, past + new, dtype=torch.bool, device=embedded.device).tril(past)
    return attention_mask(causal & padding.bool()[:, None, None, :], embedded.dtype)
