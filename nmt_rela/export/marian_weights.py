"""The weights of Marian models in the format of transformers, by the names of a `Transformer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt_rela.checkpoints.safetensors_io import read_tensors
from nmt_rela.data.tokenizer import BOS
from nmt_rela.models.embedding import sinusoidal_positions
from nmt_rela.utils.errors import CheckpointError

#: Whether both sides have one embedding.
ONE_EMBEDDING = "share_encoder_decoder_embeddings"  # words: allow
#: How much less the logit of the start is than that of the sub-word whose embedding it copies.
_START_PENALTY = 30.0


def convert_weights(
    folder: Path, settings: Mapping[str, Any], *, source_rows: Tensor, target_rows: Tensor
) -> dict[str, Tensor]:
    """The ``state_dict`` of the run's model.

    ``settings`` are those of config.json. ``source_rows`` and ``target_rows``: the row that each of our ids has in the
    embeddings of the folder. Raises CheckpointError, with all reasons, for weights that do not fit the settings.
    """
    return _Conversion(folder, _read_weights(folder), settings).convert(source_rows, target_rows)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors by name, in float32: of safetensors files, or of a pickle that holds nothing but tensors.

    Raises CheckpointError.
    """
    weights: dict[str, Tensor] = {}
    whole, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    # Others beside them, such as model.fp16.safetensors, are copies of another precision.
    if files := [whole] if whole.exists() else sorted(folder.glob("model-*-of-*.safetensors")):
        for file in files:
            weights |= read_tensors(file)
    elif pickled.is_file():
        try:
            weights = torch.load(pickled, map_location="cpu", weights_only=True)
        except Exception as error:  # of many types, for damaged or forbidden content
            raise CheckpointError(f"{pickled}: damaged, or more than tensors; it is not executed") from error
    else:
        raise CheckpointError(f"{folder}: no weights; accepted: model.safetensors or pytorch_model.bin")
    if not isinstance(weights, dict) or not all(map(_is_dense, weights.values())):
        raise CheckpointError(f"{pickled}: does not hold tensors by name")
    for name, value in weights.items():
        if not value.is_floating_point():
            raise CheckpointError(f"{folder}: {name} is {value.dtype}, as in quantized models; accepted: floats")
        if not value.float().isfinite().all():
            raise CheckpointError(f"{folder}: {name} holds numbers that are not finite")
    return {name: value.float() for name, value in weights.items()}


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


class _Conversion:
    """The weights of a Marian model by the names of a `Transformer`; every reason why they do not fit is collected."""

    def __init__(self, folder: Path, weights: dict[str, Tensor], settings: Mapping[str, Any]) -> None:
        self.folder, self.weights, self.settings = folder, dict(weights), settings
        self.reasons: list[str] = []

    def convert(self, source_rows: Tensor, target_rows: Tensor) -> dict[str, Tensor]:
        """Raises CheckpointError with all reasons."""
        width, inner = self.settings["d_model"], self.settings["encoder_ffn_dim"]
        found: dict[str, Tensor] = {}
        for stack in ("encoder", "decoder"):
            for index in range(self.settings[f"{stack}_layers"]):
                theirs, ours = f"model.{stack}.layers.{index}", f"{stack}.{index}"
                parts = {
                    "self_attention.qkv_proj": [f"self_attn.{part}_proj" for part in "qkv"],
                    "self_attention.out_proj": ["self_attn.out_proj"],
                    "cross_attention.q_proj": ["encoder_attn.q_proj"],
                    "cross_attention.kv_proj": [f"encoder_attn.{part}_proj" for part in "kv"],
                    "cross_attention.out_proj": ["encoder_attn.out_proj"],
                    "feed_forward.fc1": ["fc1"],
                    "feed_forward.fc2": ["fc2"],
                }
                for name, linears in parts.items():
                    if stack == "encoder" and name.startswith("cross"):
                        continue
                    shape = {"feed_forward.fc1": (inner, width), "feed_forward.fc2": (width, inner)}.get(
                        name, (width, width)
                    )
                    for parameter, size in (("weight", shape), ("bias", shape[:1])):
                        tensors = [self._take(f"{theirs}.{linear}.{parameter}", size) for linear in linears]
                        found[f"{ours}.{name}.{parameter}"] = tensors[0] if self.reasons else torch.cat(tensors)
                for name, norm in (
                    ("self_attention", "self_attn_layer_norm"),
                    ("cross_attention", "encoder_attn_layer_norm"),
                    ("feed_forward", "final_layer_norm"),
                ):
                    if stack == "encoder" and name.startswith("cross"):
                        continue
                    for parameter in ("weight", "bias"):
                        found[f"{ours}.{name}_residual.layer_norm.{parameter}"] = self._take(
                            f"{theirs}.{norm}.{parameter}", (width,)
                        )
        matrices, bias = self._take_embeddings(source_rows, target_rows)
        self._check_positions()
        self.reasons += [f"{name} has no place in the model" for name in sorted(self.weights)]
        if self.reasons:
            first, more = self.reasons[:8], len(self.reasons) - 8
            raise CheckpointError(
                f"{self.folder}: its weights do not fit its config.json: {'; '.join(first)}"
                + (f"; and {more} more" if more > 0 else "")
            )
        bias = bias[target_rows]
        bias[BOS] -= _START_PENALTY
        return found | {
            "source_embedding.weight": matrices[0][source_rows],
            "target_embedding.weight": matrices[1][target_rows],
            "output_embedding": matrices[2][target_rows],
            "output_bias": bias,
        }

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.weights.pop(name, None)
        if tensor is None or tensor.shape != shape:
            problem = "is missing" if tensor is None else f"is {list(tensor.shape)}, expected {list(shape)}"
            self.reasons.append(f"{name} {problem}")
            return torch.zeros(0)
        return tensor

    def _take_alias(self, names: Sequence[str], shape: tuple[int, int]) -> Tensor:
        """The matrix that several names stand for. Files have one of them, or all."""
        present = [name for name in names if name in self.weights]
        taken = [self._take(name, shape) for name in present or names[:1]]
        if not all(torch.equal(taken[0], other) for other in taken):
            self.reasons.append(f"{' and '.join(present)} differ, but config.json says that they are one")
        return taken[0]

    def _take_embeddings(self, source_rows: Tensor, target_rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """The matrices of source, target and output, and the bias of the output, by their ids."""
        width = self.settings["d_model"]
        source_size, target_size = (int(rows.max()) + 1 for rows in (source_rows, target_rows))
        encoder, decoder = (f"model.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
        groups = [[encoder], [decoder], ["lm_head.weight"]]
        shared = self.weights.get("model.shared.weight")
        if self.settings["tie_word_embeddings"] and self.settings[ONE_EMBEDDING]:
            groups = [["model.shared.weight", encoder, decoder, "lm_head.weight"]]
        elif self.settings["tie_word_embeddings"]:
            groups = [[encoder], [decoder, "lm_head.weight"]]
        elif shared is not None:  # by transformers 4 the only one; 5 has separate ones beside it
            del self.weights["model.shared.weight"]
            self.weights = {encoder: shared, decoder: shared} | self.weights
        matrices: dict[str, Tensor] = {}
        for group in groups:
            size = source_size if group == [encoder] else target_size
            matrices |= dict.fromkeys(group, self._take_alias(group, (size, width)))
        bias = torch.zeros(target_size)
        if "final_logits_bias" in self.weights:
            bias = self._take("final_logits_bias", (1, target_size)).flatten()
        return [matrices[encoder], matrices[decoder], matrices["lm_head.weight"]], bias

    def _check_positions(self) -> None:
        """Older files hold the positions, some in half precision; they must be those that are computed."""
        for stack in ("encoder", "decoder"):
            name = f"model.{stack}.embed_positions.weight"
            table = self.weights.pop(name, None)
            if table is None:
                continue
            width = self.settings["d_model"]
            if table.shape[1:] != (width,) or not torch.allclose(
                table, sinusoidal_positions(len(table), width, "marian"), atol=2e-3
            ):
                self.reasons.append(f"{name} holds other positions than the sinusoids of Marian")
