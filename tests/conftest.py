"""Fixtures that find the optional public text, whose tests skip, and say so, where it is absent; and a local server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, file_server

# Before anything imports torch, and for the processes that tests start too: what is compared bit by bit must be added
# up in the same order, and models this small gain nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"

# Triton reads this when it is imported. Without a GPU its kernels run in its interpreter, on the CPU. PyTorch is not
# asked, because it must not be imported yet; the second device is that of Windows' Linux.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
    os.environ["TRITON_INTERPRET"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path += [str(REPOSITORY / "scripts" / "benchmarks"), str(REPOSITORY / "scripts")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped, with that reason, where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]  # a folder's name is a keyword too
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def matmul_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of compiled matmuls are unset for every test, and what a command sets ends with its test."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(name, "")  # so that it is restored, also where it is not set
        monkeypatch.delenv(name)


def _optional_folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"{what} not found at {path}")
    return path


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder laid out as the public archives are (``NMT_RELA_MIRROR``, or ``../shared/mirror``)."""
    return _optional_folder(Path(os.environ.get("NMT_RELA_MIRROR", REPOSITORY.parent / "shared/mirror")), "data mirror")


@pytest.fixture(scope="session")
def gold_alignments() -> Path:
    """The folder of gold word alignments (``NMT_RELA_ALIGNMENTS``, or ``../shared/alignment``)."""
    default = REPOSITORY.parent / "shared/alignment"
    return _optional_folder(Path(os.environ.get("NMT_RELA_ALIGNMENTS", default)), "gold alignments")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A local server, asked without a proxy and with no mirror in its place."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("NMT_RELA_MIRROR", raising=False)
    with file_server() as files:
        yield files
