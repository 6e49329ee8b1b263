"""Checkpoints: written whole or not at all, verified when read, averaged.

A checkpoint is a directory of ``*.pt`` files (tensors and plain values only), a ``state.json``, and a
``manifest.json`` with the size and SHA-256 of each, which is written last. It is built under a temporary name,
synced and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt_rela.utils.errors import CheckpointError

FORMAT_VERSION = 1
_MANIFEST, _STATE = "manifest.json", "state.json"
_TEMPORARY, _REPLACED = ".tmp", ".old.tmp"


def write_checkpoint(directory: Path, *, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write ``tensors`` (file stem → what torch.save takes) and ``state`` (JSON values) as one checkpoint.

    An older checkpoint of the same name is replaced only when the new one is complete. Raises OSError when it cannot
    be written; nothing that was there is lost then, and no part of the new one stays.
    """
    temporary = directory.with_name(directory.name + _TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for stem, content in tensors.items():
            with open(temporary / f"{stem}.pt", "wb") as file:
                try:
                    torch.save(content, file)
                except RuntimeError as error:  # the archive's complaint about a write that failed covers the failure
                    raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
                _sync(file.fileno())
        _write_json(temporary / _STATE, state)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(temporary.iterdir())
        }
        _write_json(temporary / _MANIFEST, {"format_version": FORMAT_VERSION, "files": files})
        _sync_directory(temporary)
        if directory.exists():
            replaced = directory.with_name(directory.name + _REPLACED)
            shutil.rmtree(replaced, ignore_errors=True)
            directory.rename(replaced)
            temporary.rename(directory)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            temporary.rename(directory)
        _sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify_checkpoint(directory: Path) -> None:
    """Compare every file with the manifest. Raises CheckpointError naming the file and what is wrong with it."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint")
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
        version = manifest["format_version"]
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory / _MANIFEST}: missing or unreadable; the checkpoint is no use") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{directory / _MANIFEST}: format {version}, this program reads format {FORMAT_VERSION}")
    for name, (size, digest) in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though the manifest lists it")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, the manifest says {size}")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path}: damaged, its SHA-256 is not the manifest's")


def load_tensors(directory: Path, stem: str, *, device: str | torch.device = "cpu") -> Any:
    """What one ``.pt`` file holds, tensors and plain values only. Raises CheckpointError, also on a hostile pickle."""
    path = directory / f"{stem}.pt"
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # torch raises a zoo of types for damaged or forbidden content
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be loaded as tensors and plain values: {reason}") from error


def load_state(directory: Path) -> dict[str, Any]:
    """The content of ``state.json``. Raises CheckpointError."""
    try:
        state: dict[str, Any] = json.loads((directory / _STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory / _STATE}: missing or unreadable") from error
    return state


def step_name(update: int) -> str:
    """The name of the checkpoint of an update."""
    return f"step_{update:08d}"


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoints of updates under ``root``, oldest first."""
    if not root.is_dir():
        return []
    steps = [path for path in root.iterdir() if re.fullmatch(r"step_\d+", path.name)]
    return sorted(steps, key=lambda path: int(path.name.removeprefix("step_")))


def clear_leftovers(root: Path) -> None:
    """Clear up after kills inside ``write_checkpoint``: what was set aside for a new checkpoint of an update that never
    came takes its place again, the rest goes. Nobody may be writing there.
    """
    for path in root.glob(f"step_*{_REPLACED}"):
        place = path.with_name(path.name.removesuffix(_REPLACED))
        if not place.exists():
            path.rename(place)
    for path in root.glob(f"step_*{_TEMPORARY}"):
        shutil.rmtree(path, ignore_errors=True)


def average(directories: Sequence[Path]) -> dict[str, Tensor]:
    """The arithmetic mean of the models of several checkpoints.

    Raises CheckpointError when they do not hold the same parameters in the same shapes.
    """
    first = load_tensors(directories[0], "model")
    sums = {name: tensor.double() for name, tensor in first.items()}
    for directory in directories[1:]:
        model = load_tensors(directory, "model")
        if model.keys() != first.keys():
            odd = sorted(model.keys() ^ first.keys())[0]
            raise CheckpointError(f"{directory}: parameter {odd} is not in both this model and {directories[0].name}")
        for name, tensor in model.items():
            if tensor.shape != first[name].shape:
                raise CheckpointError(
                    f"{directory}: parameter {name} is {list(tensor.shape)}, "
                    f"in {directories[0].name} it is {list(first[name].shape)}"
                )
            sums[name] += tensor
    # Tied parameters share one storage in the checkpoint: let their mean share one too.
    means: dict[int, Tensor] = {}
    return {
        name: means.setdefault(tensor.data_ptr(), (sums[name] / len(directories)).to(tensor.dtype))
        for name, tensor in first.items()
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        _sync(file.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
