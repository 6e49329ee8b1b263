"""Import of Marian models in the format of transformers, such as those of OPUS-MT: a folder becomes a run directory.

Their vocabulary is put into the order of ours: padding, unknown, end, start, then the others. The start of a target has
a row of its own, a copy of the embedding that the model starts from. As an output it is suppressed by its bias.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from nmt_rela.checkpoints.run_directory import build_model
from nmt_rela.config.loader import config_from_yaml, config_to_yaml, override_config
from nmt_rela.config.schema import IMPORTED, Config, DataConfig, DecodingConfig, ModelConfig, TrainingConfig
from nmt_rela.data.tokenizer import BOS, SentencePieceTokenizer, TokenizerPair
from nmt_rela.export.marian_weights import ONE_EMBEDDING, convert_weights
from nmt_rela.export.model_card import export_readme
from nmt_rela.export.safetensors import README, write_run
from nmt_rela.utils.errors import CheckpointError, ConfigError, DataError
from nmt_rela.utils.files import read_json, read_regular

LOG = logging.getLogger(__name__)

_ORIGIN = """\
# $source to $target

Imported by nmt-import from `$name`, a Marian model in the format of transformers. Licence by its README: $licence.
Settings of training in `config.yaml` are defaults, not those of the model's own training. """
#: What transformers assumes where config.json is silent.
_DEFAULTS: dict[str, Any] = {
    "decoder_vocab_size": None, "scale_embedding": False, "activation_function": "gelu",
    ONE_EMBEDDING: True, "tie_word_embeddings": True, "max_position_embeddings": 1024,
    "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip
#: Sizes that config.json gives, and the largest ones.
_SIZES = {
    "vocab_size": 999_999, "decoder_vocab_size": 999_999, "d_model": 65_536, "max_position_embeddings": 65_535,
    "encoder_layers": 1_000, "decoder_layers": 1_000, "encoder_ffn_dim": 1_000_000, "decoder_ffn_dim": 1_000_000,
    "encoder_attention_heads": 1_000, "decoder_attention_heads": 1_000,
}  # fmt: skip
#: Settings of other architectures, which transformers ignores in Marian models.
_FOREIGN = {
    "normalize_before": False, "normalize_embedding": False, "add_final_layer_norm": False,
    "static_position_embeddings": True, "quantization_config": None,
}  # fmt: skip
_ACTIVATIONS = {"relu": "relu", "swish": "swish", "silu": "swish", "gelu": "gelu"}
_NAME = re.compile(r"opus-mt-(?:tc-(?:base-|big-|bible-big-)?)?([A-Za-z_]+)-([A-Za-z_]+)")


def import_marian(folder: Path, output: Path, overrides: Sequence[str] = ()) -> Config:
    """Write the model of ``folder`` as the run directory ``output``; its configuration.

    ``overrides`` are settings, except of ``model``, as on the command line. Nothing in the folder is executed. Raises
    CheckpointError, with all reasons, for what is not such a model or cannot be represented.
    """
    settings = _read(folder / "config.json")
    if settings.get("model_type") != "marian":
        raise CheckpointError(
            f"{folder / 'config.json'}: the architecture is {settings.get('model_type')!r}; accepted: 'marian'"
        )
    settings = _DEFAULTS | settings
    settings["decoder_vocab_size"] = settings["decoder_vocab_size"] or settings.get("vocab_size")
    if reasons := _unsupported(settings):
        raise CheckpointError(f"{folder / 'config.json'}: cannot be represented: {'; '.join(reasons)}")
    source, target = _read_vocabularies(folder, settings)
    config = _configuration(folder, output, settings, overrides)
    converted = convert_weights(folder, settings, source_rows=source.rows, target_rows=target.rows)
    tokenizers = TokenizerPair(source.tokenizer, target.tokenizer)
    model = build_model(config.model, tokenizers)
    model.load_state_dict(converted)
    if settings[ONE_EMBEDDING] and not settings["tie_word_embeddings"]:
        LOG.warning("%s: one embedding for both sides becomes two in the run, which training makes differ", folder)
    name = " ".join(str(settings.get("_name_or_path") or folder.resolve().name).split())
    licence = _licence(folder)
    origin = {"imported_from": name, "data": {"title": Path(name).name, "licence": licence}}
    page = _ORIGIN + README.partition("\n\n")[2].replace("Made by nmt-export:", "The folder holds")
    readme = export_readme(page, config, name=name, licence=licence or "not stated")
    write_run(output, model.eval(), config, tokenizers, readme, origin)
    return config


def _read(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object; one that is ``optional`` is empty where the file is missing. Raises CheckpointError."""
    if optional and not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: {'no JSON object' if path.exists() else 'missing'}; expected a Marian model")
    return content


def _unsupported(settings: Mapping[str, Any]) -> list[str]:
    """All reasons why a configuration has no counterpart."""
    reasons = [
        f"{name} is {settings.get(name)!r}, expected a whole number from 1 to {high:,}"
        for name, high in _SIZES.items()
        if type(settings.get(name)) is not int or not 1 <= settings[name] <= high
    ]
    reasons += [
        f"{name} is {settings[name]!r}, expected true or false"
        for name in (ONE_EMBEDDING, "tie_word_embeddings", "scale_embedding")
        if type(settings[name]) is not bool
    ]
    if not reasons:
        for name in ("ffn_dim", "attention_heads"):
            sides = settings[f"encoder_{name}"], settings[f"decoder_{name}"]
            if sides[0] != sides[1]:
                reasons.append(f"encoder_{name} is {sides[0]} and decoder_{name} {sides[1]}, expected equal ones")
        if settings["d_model"] % settings["encoder_attention_heads"]:
            reasons.append("d_model is no multiple of the attention heads")
    found, accepted = settings["activation_function"], ", ".join(_ACTIVATIONS)
    if not isinstance(found, str) or found not in _ACTIVATIONS:
        reasons.append(f"activation_function is {found!r}, accepted: {accepted}")
    special = [settings.get(f"{name}_token_id") for name in ("pad", "eos", "decoder_start")]
    if any(type(i) is not int or i < 0 for i in special):
        reasons.append("pad_token_id, eos_token_id and decoder_start_token_id must be whole numbers")
    elif special[0] == special[1]:
        reasons.append("padding and end of sentence are the same sub-word")
    reasons += [
        f"{name} is {settings[name]!r}, expected {expected!r}"
        for name, expected in _FOREIGN.items()
        if settings.get(name, expected) != expected
    ]
    reasons += [
        f"{name} is {settings[name]!r}, expected a number from 0 to 0.9"
        for name in ("dropout", "attention_dropout", "activation_dropout")
        if not isinstance(settings[name], (int, float)) or not 0 <= settings[name] <= 0.9
    ]
    return reasons


@dataclass(frozen=True, slots=True)
class _Side:
    """A tokenizer in our order of ids, and the row of the model that each id has there."""

    tokenizer: SentencePieceTokenizer
    rows: Tensor


def _read_vocabularies(folder: Path, settings: Mapping[str, Any]) -> tuple[_Side, _Side]:
    """Source and target. Raises CheckpointError."""
    shared = settings[ONE_EMBEDDING]
    names = _read(folder / "tokenizer_config.json", optional=True)
    tokens = {
        name: str(token.get("content") if isinstance(token := names.get(f"{name}_token") or default, dict) else token)
        for name, default in (("pad", "<pad>"), ("unk", "<unk>"), ("eos", "</s>"))
    }
    sizes = settings["vocab_size"], settings["decoder_vocab_size"]
    sides = []
    for side, size, file in zip(
        ("source", "target"), sizes, ("vocab.json", "vocab.json" if shared else "target_vocab.json"), strict=True
    ):
        path = folder / file
        ids = _read(path)
        if shared:
            size = sizes[0]
        if not all(type(i) is int and 0 <= i < size for i in ids.values()) or len(set(ids.values())) < len(ids):
            raise CheckpointError(f"{path}: the ids must differ and lie below the size of the vocabulary, {size}")
        if missing := [tokens[name] for name in ("unk", "eos") if tokens[name] not in ids]:
            raise CheckpointError(f"{path}: lacks the sub-words {', '.join(missing)}")
        unk, eos = ids[tokens["unk"]], ids[tokens["eos"]]
        pad, start = settings["pad_token_id"], settings["decoder_start_token_id"]
        if shared or side == "target":
            if settings["eos_token_id"] != eos:
                raise CheckpointError(
                    f"{path}: {tokens['eos']} has the id {eos}, but eos_token_id of config.json is "
                    f"{settings['eos_token_id']}"
                )
            if max(pad, start) >= size:
                raise CheckpointError(
                    f"{folder / 'config.json'}: pad_token_id or decoder_start_token_id is above {size - 1}"
                )
        else:  # never seen by the model
            pad, start = ids.get(tokens["pad"], eos), eos
        pieces = {i: piece for piece, i in ids.items()}
        ordered = [pieces.get(i, f"[{i}]") for i in range(size)]
        special = [tokens["pad"] if pad == eos else ordered[pad], ordered[unk], ordered[eos], "<s>"]
        while special[BOS] in ids:
            special[BOS] += "'"
        others = [i for i in range(size) if i not in (pad, unk, eos)]
        spm = folder / f"{side}.spm"
        try:
            tokenizer = SentencePieceTokenizer(
                read_regular(spm), name=str(spm), vocabulary=[*special, *(ordered[i] for i in others)]
            )
        except OSError as error:
            raise CheckpointError(f"{spm}: cannot be read ({(error.strerror or '').lower()})") from error
        except DataError as error:
            raise CheckpointError(str(error)) from error
        learned = tokenizer.scores.keys()
        if 2 * len(learned & ids.keys()) < len(learned):  # all others would be unknown words
            raise CheckpointError(
                f"{spm}: {path.name} has {len(learned & ids.keys()):,} of its {len(learned):,} sub-words, so that it "
                "belongs to another model"
            )
        sides.append(_Side(tokenizer, torch.tensor([pad, unk, eos, start, *others])))
    return sides[0], sides[1]


def _configuration(folder: Path, output: Path, settings: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of the run. Raises ConfigError."""
    shared, tied = settings[ONE_EMBEDDING], settings["tie_word_embeddings"]
    ties: Literal["target", "all", "none"] = ("all" if shared else "target") if tied else "none"
    languages = _languages(folder)
    search = {**settings, **_read(folder / "generation_config.json", optional=True)}
    beam, penalty = search.get("num_beams") or 1, search.get("length_penalty", 1.0)
    for override in overrides:
        if override.startswith("model."):
            raise ConfigError(f"override '{override}': what is imported has its own model; accepted: data and decoding")
    config = Config(
        run_dir=str(output),
        data=DataConfig(
            task=IMPORTED,
            source_language=languages[0],
            target_language=languages[1],
            joint_vocabulary=bool(shared),
            vocabulary_size=settings["vocab_size"] + 1,
            subword_model=_subword_model(folder / "source.spm"),
            max_length=settings["max_position_embeddings"],
        ),
        model=ModelConfig(
            attention="softmax",
            encoder_layers=settings["encoder_layers"],
            decoder_layers=settings["decoder_layers"],
            d_model=settings["d_model"],
            ffn_dim=settings["encoder_ffn_dim"],
            num_heads=settings["encoder_attention_heads"],
            layer_norm_epsilon=1e-5,
            activation=_ACTIVATIONS[settings["activation_function"]],  # type: ignore[arg-type]
            dropout=settings["dropout"],
            embedding_dropout=settings["dropout"],
            attention_dropout=settings["attention_dropout"],
            ffn_dropout=settings["activation_dropout"],
            tied_embeddings=ties,
            scale_embeddings=bool(settings["scale_embedding"]),
            output_bias=True,
            positions="marian",
        ),
        training=TrainingConfig(),
        decoding=DecodingConfig(
            beam_size=beam,
            length_penalty=max(penalty, 0.0) if isinstance(penalty, (int, float)) else 1.0,
            early_stopping=search.get("early_stopping") is True,
        ),
    )
    config = override_config(config_from_yaml(config_to_yaml(config), str(folder / "config.json")), overrides)
    if {"source", "target"} & set(config.data.languages):
        raise ConfigError(
            f"{folder}: does not say what its languages are; give data.source_language=… and data.target_language=…, "
            "such as en and de"
        )
    return config


def _languages(folder: Path) -> tuple[str, str]:
    """The languages by the tokenizer's settings or the folder's name; "source" and "target" where they are unknown."""
    names = _read(folder / "tokenizer_config.json", optional=True)
    found = _NAME.search(folder.resolve().name)
    source, target = found.groups() if found else ("source", "target")
    given = (names.get(f"{side}_lang") for side in ("source", "target"))
    source, target = (
        name if isinstance(name, str) and re.fullmatch(r"[A-Za-z_-]+", name) else default
        for name, default in zip(given, (source, target), strict=True)
    )
    return source, target


def _subword_model(spm: Path) -> Literal["bpe", "unigram"]:
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made by protobuf
    proto.ParseFromString(spm.read_bytes())
    return "bpe" if proto.trainer_spec.model_type == proto.trainer_spec.BPE else "unigram"


def _licence(folder: Path) -> str:
    """The licence by the head of README.md; "" where it does not say one."""
    try:
        head = read_regular(folder / "README.md").decode("utf-8").split("---")[1]
        licence = yaml.safe_load(head)["license"]
        return licence if isinstance(licence, str) and re.fullmatch(r"[\w.-]+", licence) else ""
    except (OSError, UnicodeDecodeError, LookupError, TypeError, yaml.YAMLError):
        return ""
