"""Train, run and look into encoder-decoder Transformers whose attention is one YAML switch.

``import nmt_rela`` is cheap: nothing heavy is loaded before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Translator", "__version__"]

if TYPE_CHECKING:
    from nmt_rela.generation.translator import Translator


def __getattr__(name: str) -> Any:
    if name == "Translator":
        from nmt_rela.generation.translator import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
