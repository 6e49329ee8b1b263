"""The live microscope: the attention page with models that translate in the browser."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

from nmt_rela.analysis.html_page import LivePart, page_part
from nmt_rela.analysis.live_model import pack_model
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import Config, DecodingConfig
from nmt_rela.data.normalization import language_rules
from nmt_rela.models.transformer import Transformer

#: The engine's files in the order of their use; the worker's script follows them.
_ENGINE = (
    "tensor", "functional", "attention", "layers", "transformer", "incremental_decoder", "beam_search",
    "model_proto", "normalizer", "sentencepiece",
)  # fmt: skip


def engine_source() -> str:
    """The engine as one script."""
    return "\n".join(page_part(f"engine/{name}.js") for name in _ENGINE)


def worker_source() -> str:
    """The script of a worker: the engine, and what answers the page."""
    source = f"{engine_source()}\n{page_part('engine/worker.js')}"
    assert "</script" not in source
    return source


def live_part(
    runs: Sequence[RunDirectory],
    models: Sequence[Transformer],
    decodings: Sequence[DecodingConfig],
    *,
    bits: int = 8,
) -> LivePart:
    """The models of some runs, their tokenizers and settings, and the engine."""
    blocks = {"engine": worker_source()}
    descriptions: list[dict[str, Any]] = []
    for number, (run, model, decoding) in enumerate(zip(runs, models, decodings, strict=True)):
        packed, tokenizers = pack_model(model, bits=bits), run.load_tokenizers()
        blocks[f"model-{number}"] = _deflate(packed.weights, zlib.Z_FILTERED)
        of_run = []
        for tokenizer in (tokenizers.source, tokenizers.target):
            name = f"tokenizer-{tokenizer.fingerprint[:12]}"
            blocks[name] = _deflate(tokenizer.model)
            vocabulary = list(tokenizer.vocabulary) if tokenizer.has_own_vocabulary else None
            of_run.append({"model": name, "vocabulary": vocabulary})
        descriptions.append(_description(run.config(), decoding) | {"header": packed.header, "tokenizers": of_run})
    return LivePart(runs=descriptions, blocks=blocks)


def _description(config: Config, decoding: DecodingConfig) -> dict[str, Any]:
    rules = [language_rules(language, config.data) for language in config.data.languages]
    return {
        "normalization": [
            {"keeps_joiners": keeps_joiners, "romanian_diacritics": romanian} for keeps_joiners, romanian in rules
        ],
        "search": {
            "beamSize": decoding.beam_size,
            "lengthPenalty": decoding.length_penalty,
            "earlyStopping": decoding.early_stopping,
            "maxLengthOffset": decoding.max_length_offset,
            "minLength": decoding.min_length,
        },
    }


def _deflate(content: bytes, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> str:
    """zlib data as base64. Weights repeat by chance only, so that looking for repetitions would cost size."""
    compressor = zlib.compressobj(9, strategy=strategy)
    return base64.b64encode(compressor.compress(content) + compressor.flush()).decode("ascii")
