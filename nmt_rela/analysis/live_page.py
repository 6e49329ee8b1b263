"""The live microscope: the attention page with models that translate in the browser."""

from __future__ import annotations

from nmt_rela.analysis.html_page import page_part

#: The engine's files in the order of their use; the worker's script follows them.
_ENGINE = (
    "tensor", "functional", "attention", "layers", "transformer", "incremental_decoder", "beam_search",
    "model_proto", "normalizer", "sentencepiece",
)  # fmt: skip


def engine_source() -> str:
    """The engine as one script."""
    return "\n".join(page_part(f"engine/{name}.js") for name in _ENGINE)
