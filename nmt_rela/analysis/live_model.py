"""A model packed for the live page: row-wise int8 weights, and what the page's engine has to know about it.

The bytes hold, for every distinct tensor in the order of the header, float32 numbers (a vector, or one scale per row of
a matrix), then the int8 codes of all matrices: weight = scale · code. ``page/engine/transformer.js`` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt_rela.models.layers import EncoderLayer
from nmt_rela.models.transformer import Transformer


@dataclass(frozen=True, slots=True)
class PackedModel:
    """The weights of a model as bytes, and their description for JSON."""

    header: Mapping[str, Any]
    weights: bytes


def quantize_rows(
    matrix: npt.NDArray[np.float32], *, bits: int = 8
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes [rows, columns] and scales [rows] with matrix ≈ scales · codes, and |code| < 2^(bits − 1)."""
    largest = 2 ** (bits - 1) - 1
    scales = (np.abs(matrix).max(axis=1) / largest).astype(np.float32)
    codes = np.rint(matrix / np.where(scales > 0, scales, 1)[:, None])
    return codes.clip(-largest, largest).astype(np.int8), scales


def pack_model(model: Transformer, *, bits: int = 8) -> PackedModel:
    """The model's weights in at most ``bits`` bits; fewer bits compress better and cost quality."""
    tensors: list[dict[str, Any]] = []
    floats, codes = [], []
    names: dict[int, str] = {}  # of tied parameters the first
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in names:
            tensors.append({"name": name, "same_as": names[id(tensor)]})
            continue
        names[id(tensor)] = name
        values = tensor.detach().float().cpu().numpy()
        tensors.append({"name": name, "shape": list(values.shape)})
        if values.ndim == 2:
            of_tensor, values = quantize_rows(values, bits=bits)
            codes.append(of_tensor.tobytes())
        floats.append(values.astype("<f4").tobytes())
    modules, embedding, layer = model.attention_modules(), model.source_embedding, model.encoder[0]
    assert isinstance(layer, EncoderLayer)  # ModuleList forgets its element type
    header = {
        "attention": {site: module.variant for (site, index), module in modules.items() if index == 0},
        "encoder_layers": len(model.encoder),
        "decoder_layers": len(model.decoder),
        "d_model": model.output_embedding.shape[1],
        "num_heads": modules["cross", 0].num_heads,
        "norm_order": "post" if model.decoder_norm is None else "pre",
        "layer_norm_epsilon": layer.feed_forward_residual.layer_norm.eps,
        "activation": layer.feed_forward.activation,
        "embedding_scale": embedding.scale,
        "positions": embedding.layout,
        "decoder_start": "zero" if model.starts_with_zeros else "bos",
        "tensors": tensors,
    }
    return PackedModel(header, b"".join(floats + codes))
