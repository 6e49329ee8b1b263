"""A model and its decoder in compiled code (kernels/cpu/native/), for inference on a CPU."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable
from ctypes import c_float, c_int32, c_void_p
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.rela_norm import ReLANorm
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels.cpu.native_library import native_library
from nmt_rela.kernels.cpu.packed_linear import LEVELS, tensor_state
from nmt_rela.models.layers import ACTIVATIONS, DecoderLayer, EncoderLayer, SublayerConnection
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer


class _Config(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in (
            "d_model", "heads", "ffn_dim", "encoder_layers", "decoder_layers", "vocabulary", "pre_norm", "activation",
            "levels", "encoder_variant", "decoder_variant", "cross_variant", "starts_with_zeros", "source_vocabulary",
        )),
        *((name, c_float) for name in ("norm_epsilon", "source_scale", "target_scale")),
    )  # fmt: skip


class NativeModel:
    """The weights of a model, packed for compiled code. A copy of the model has none: it is made to be changed."""

    def __init__(self, model: Transformer, library: ctypes.CDLL, *, int8: bool) -> None:
        """``model`` has its parameters in float32 on the CPU, and linear layers that are not packed yet."""
        self.library = library
        self.vocabulary, self.d_model = model.output_embedding.shape
        self.pad_id = model.pad_id
        self.embeddings = model.source_embedding, model.target_embedding
        arrays = [None if x is None else x.detach().contiguous() for x in _arrays(model)]
        self._read_in_place = arrays[0], arrays[2]
        decoder: DecoderLayer = model.decoder[0]  # type: ignore[assignment]
        modules = model.attention_modules()
        variants = (list(ATTENTION_VARIANTS).index(modules[site, 0].variant) for site in ATTENTION_SITES)
        config = _Config(
            self.d_model, modules["cross", 0].num_heads, len(decoder.feed_forward.fc1.weight), len(model.encoder),
            len(model.decoder), self.vocabulary, model.decoder_norm is not None,
            list(ACTIVATIONS).index(decoder.feed_forward.activation), LEVELS if int8 else 0, *variants,
            model.starts_with_zeros, len(model.source_embedding.weight),
            decoder.self_attention_residual.layer_norm.eps, model.source_embedding.scale, model.target_embedding.scale,
        )  # fmt: skip
        pointers = (c_void_p * len(arrays))(*(None if x is None else x.data_ptr() for x in arrays))
        self.handle = c_void_p()
        library.new_model(ctypes.byref(config), pointers, ctypes.byref(self.handle))
        weakref.finalize(self, library.free_model, self.handle).atexit = False  # a thread may still use it

    def __deepcopy__(self, memo: dict[int, object]) -> None:
        return None

    def watch(self, model: Transformer) -> None:
        """Remember what the model is, once it is ready for inference; `is_current` compares it with that."""
        modules = list(model.modules())
        self._hooks = [_global_forward_hooks, _global_forward_pre_hooks]
        self._hooks += [hooks for x in modules for hooks in (x._forward_hooks, x._forward_pre_hooks)]
        self._namespaces = [names for x in modules[1:] for names in (vars(x), x._parameters, x._modules)]
        self._namespaces += [model._parameters, model._modules]
        self._parts = self._list_parts(model)
        self._vectors: list[Tensor] = [x for x in model.parameters() if x.dim() == 1]
        self._vector_values = torch.cat(self._vectors)
        self._matrices = [x for x in model.parameters() if x.dim() > 1]
        self._matrix_states = list(map(tensor_state, self._matrices))

    def is_current(self, model: Transformer) -> bool:
        """Whether the model still is what was packed: no hook, no other module, attribute or value.

        Of matrices, changes through ``.data`` are not seen.
        """
        try:
            return (
                not any(self._hooks)
                and self._list_parts(model) == self._parts
                and list(map(tensor_state, self._matrices)) == self._matrix_states
                and torch.equal(torch.cat(self._vectors), self._vector_values)
            )
        except RuntimeError:  # other tensors, of which PyTorch does not say that they differ
            return False

    def _list_parts(self, model: Transformer) -> list[object]:
        """Attributes, parameters and submodules of all modules. Comparing such lists is fast where all are the same."""
        parts = [x for x in vars(model).values() if x is not self]  # a cycle would delay freeing the memory
        return [*parts, *chain.from_iterable(names.values() for names in self._namespaces)]


def native_model(model: Transformer, dtype: torch.dtype) -> NativeModel | None:
    """The compiled form of a float32 model on the CPU, in float32 or int8; None where this machine has none."""
    library = native_library() if dtype in (torch.float32, torch.int8) else None
    return None if library is None else NativeModel(model, library, int8=dtype == torch.int8)


class NativeDecoder:
    """What `IncrementalDecoder` is, in one call per step."""

    def __init__(self, model: NativeModel, source: Tensor, *, max_length: int) -> None:
        """Encode ``source`` [sentences, length], padded; no hypothesis will be longer than ``max_length``."""
        self._model, self._library = model, model.library
        source = source.contiguous()
        sentences, width = source.shape
        source_positions, self._positions = (
            embedding.positions_to(length).float().contiguous()
            for embedding, length in zip(model.embeddings, (width, max_length), strict=True)
        )
        self._logits = torch.empty(0, dtype=torch.float32, device="cpu")
        self._length = 0
        self._state = c_void_p()
        self._library.new_state(
            model.handle, source.data_ptr(), sentences, width, model.pad_id, source_positions.data_ptr(),
            ctypes.byref(self._state),
        )  # fmt: skip
        weakref.finalize(self, self._library.free_state, self._state).atexit = False

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every hypothesis: [sentences, beams] → logits [sentences, beams, vocabulary].

        The next step overwrites the logits: memory that is new in every step costs as much as a layer.
        """
        tokens, position = tokens.contiguous(), self._positions[self._length]
        size = tokens.numel() * self._model.vocabulary
        if size > len(self._logits):
            self._logits = self._logits.new_empty(size)
        logits = self._logits[:size].view(*tokens.shape, -1)
        self._library.step(self._state, tokens.data_ptr(), tokens.shape[1], position.data_ptr(), logits.data_ptr())
        self._length += 1
        return logits

    def reorder(self, beam_indices: Tensor) -> None:
        """Let beam b of sentence s continue the hypothesis of beam ``beam_indices[s, b]``: [sentences, beams]."""
        beam_indices = beam_indices.contiguous()
        self._library.reorder(self._state, beam_indices.data_ptr(), beam_indices.shape[1])

    def select_sentences(self, indices: Tensor) -> None:
        """Keep only these sentences in the batch: [kept], ascending."""
        indices = indices.contiguous()
        self._library.select_sentences(self._state, indices.data_ptr(), len(indices))


def _arrays(model: Transformer) -> list[Tensor | None]:
    """The parameters in the order in which native/transformer.h takes them."""
    found: list[Tensor | None] = []

    def add(*modules: Any) -> None:
        for module in modules:
            found.extend((None, None) if module is None else (module.weight, module.bias))

    def add_attention(attention: MultiHeadAttention, residual: SublayerConnection, *, cross: bool = False) -> None:
        norm = attention.output_norm
        assert not isinstance(norm, ReLANorm) or norm.weight is None, "fold_norm_gain comes first"
        add(attention.q_proj if cross else attention.qkv_proj)
        found.append(norm.gate if isinstance(norm, ReLANorm) else None)
        add(attention.out_proj, residual.layer_norm)

    def add_feed_forward(layer: EncoderLayer | DecoderLayer) -> None:
        add(layer.feed_forward.fc1, layer.feed_forward.fc2, layer.feed_forward_residual.layer_norm)

    add(model.source_embedding, model.target_embedding)
    for encoder_layer in cast(Iterable[EncoderLayer], model.encoder):
        add_attention(encoder_layer.self_attention, encoder_layer.self_attention_residual)
        add_feed_forward(encoder_layer)
    for layer in cast(Iterable[DecoderLayer], model.decoder):
        add_attention(layer.self_attention, layer.self_attention_residual)
        add_attention(layer.cross_attention, layer.cross_attention_residual, cross=True)
        add(layer.cross_attention.kv_proj)
        add_feed_forward(layer)
    add(model.encoder_norm, model.decoder_norm)
    return [*found, model.output_embedding, model.output_bias]
