"""Weights as one safetensors file, a format that holds no code."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import CheckpointError, UserError, first_line

_FORMAT = "nmt_rela 1"


def require_safetensors() -> None:
    """Raise UserError with the installing command if the package is missing."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise UserError("safetensors files need safetensors; run: pip install 'nmt_rela[export]'") from error


def write_weights(path: Path, model: Transformer, *, vocabulary: str) -> None:
    """Write the weights, tied ones once. ``vocabulary``: fingerprint of the run's tokenizers."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(model, str(path), metadata={"format": _FORMAT, "vocabulary": vocabulary})
    except SafetensorError as error:
        raise CheckpointError(f"{path.name}: cannot be written: {first_line(error)}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name. Raises CheckpointError if it is damaged."""
    require_safetensors()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path}: not a regular file")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
    return tensors


def read_weights(path: Path, model: Transformer, *, vocabulary: str) -> None:
    """Load a file of `write_weights` into a model of the same configuration.

    Raises CheckpointError if the file is damaged or belongs to another vocabulary or configuration.
    """
    require_safetensors()
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_model

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("vocabulary") != vocabulary:
            raise CheckpointError(f"{path}: made with another vocabulary than {path.parent / 'tokenizer'}")
        load_model(model, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
    except RuntimeError as error:  # the names and shapes that do not fit
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
