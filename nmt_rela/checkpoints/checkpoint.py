"""A checkpoint: a directory that is written as a whole and verified when it is read.

It holds ``*.pt`` files (tensors and plain values only), a ``state.json``, and a ``manifest.json`` with the size and
SHA-256 of each, which is written last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt_rela.metrics.translation import ranking_score
from nmt_rela.utils.errors import CheckpointError
from nmt_rela.utils.files import PARTIAL, REPLACED, atomic_directory, read_json, restore_replaced, sha256_of

FORMAT_VERSION = 1
_MANIFEST, _STATE = "manifest.json", "state.json"


def write_checkpoint(directory: Path, *, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write ``tensors`` (file stem → argument of torch.save) and ``state`` (JSON values) as one checkpoint.

    A checkpoint of the same name is replaced only when the new one is complete. Raises OSError if the checkpoint cannot
    be written; the old one then stays, and nothing remains of the new one.
    """
    with atomic_directory(directory) as partial:
        for stem, content in tensors.items():
            with open(partial / f"{stem}.pt", "wb") as file:
                try:
                    torch.save(content, file)
                except RuntimeError as error:  # torch's archive writer hides the OSError of a failed write
                    raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        _write_json(partial / _STATE, state)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(partial.iterdir())
        }
        _write_json(partial / _MANIFEST, {"format_version": FORMAT_VERSION, "files": files})


def verify_checkpoint(directory: Path) -> None:
    """Compare every file with the manifest. Raises CheckpointError with the file and its fault."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint")
    manifest = read_json(directory / _MANIFEST)
    try:
        version = manifest["format_version"]
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory / _MANIFEST}: missing or unreadable; the checkpoint is unusable") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{directory / _MANIFEST}: format {version}; accepted: format {FORMAT_VERSION}")
    if missing := sorted({"model.pt", _STATE} - files.keys()):
        raise CheckpointError(f"{directory / _MANIFEST}: does not list {missing[0]}; the checkpoint is unusable")
    for name, (size, digest) in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; the manifest lists it")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, the manifest says {size}")
        if sha256_of(path) != digest:
            raise CheckpointError(f"{path}: damaged, its SHA-256 is not the manifest's")


def load_tensors(directory: Path, stem: str, *, device: str | torch.device = "cpu") -> Any:
    """The content of one ``.pt`` file: tensors and plain values. Raises CheckpointError, also for any other pickle."""
    path = directory / f"{stem}.pt"
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # torch raises many types for damaged or forbidden content
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be loaded as tensors and plain values: {reason}") from error


def load_parameters(directory: Path) -> dict[str, Tensor]:
    """The parameters of the model by name. Raises CheckpointError, also for any other content."""
    content = load_tensors(directory, "model")
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{directory / 'model.pt'}: does not hold parameters by name")
    return content


def describe_tensor(tensor: Any) -> str:
    """Shape and data type, by which a stored tensor is compared with the one that it is to replace."""
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    dense = tensor.layout is torch.strided and not tensor.is_meta and tensor.is_contiguous()
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" + " (not dense)" * (not dense)


def load_state(directory: Path) -> dict[str, Any]:
    """The content of ``state.json``. Raises CheckpointError."""
    state = read_json(directory / _STATE)
    if not isinstance(state, dict):
        raise CheckpointError(f"{directory / _STATE}: missing or unreadable")
    return state


def validation_score(directory: Path, metric: str) -> float | None:
    """The result of the validation at this checkpoint, larger is better; None if there is none, or it is unreadable."""
    try:
        state = load_state(directory)
    except CheckpointError:
        return None
    if "validation" not in state and "score" in state:  # of earlier code, which turned the sign of the loss itself
        return ranking_score("", state["score"])
    return ranking_score(metric, (state.get("validation") or {}).get(metric))


def rank_by_score(steps: Sequence[Path], metric: str) -> list[tuple[Path, float]]:
    """The validated checkpoints with their scores, best first; of equal scores the earlier one is better."""
    scored = [(path, score) for path in steps if (score := validation_score(path, metric)) is not None]
    return sorted(scored, key=lambda item: (-item[1], item[0].name))


def weights_checksum(checkpoint: Path) -> str:
    """The SHA-256 of the weights by the manifest; the name of a file of exported weights, which never change."""
    try:
        return str(read_json(checkpoint / _MANIFEST)["files"]["model.pt"]["sha256"])
    except (LookupError, TypeError):
        return checkpoint.name


def checkpoint_name(update: int) -> str:
    """The name of the checkpoint of an update."""
    return f"step_{update:08d}"


def update_of(checkpoint: Path) -> int:
    """The update of a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix("step_"))


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoints of updates under ``root``, oldest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if re.fullmatch(r"step_\d+", path.name)), key=update_of)


def remove_stale_files(root: Path) -> None:
    """Clean up after a kill inside `write_checkpoint`.

    A replaced checkpoint without successor is restored, other remains are deleted. No other process may write there.
    """
    for suffix in (REPLACED, PARTIAL):
        for path in root.glob(f"*{suffix}"):
            restore_replaced(path.with_name(path.name.removesuffix(suffix)))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
