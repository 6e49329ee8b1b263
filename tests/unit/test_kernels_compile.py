"""The interpreter forgives what a compiler does not, so the kernels are compiled too; that needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

SCRIPT = Path(__file__).parent.parent / "compile_kernels.py"

pytestmark = pytest.mark.slow


def assert_compiles(capability: int, shared_kib: int, folder: Path, version: str, *path: Path) -> None:
    """Every kernel compiles and fits the registers and the shared memory of a GPU. ``path`` comes first on sys.path."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*path, SCRIPT.parent.parent]))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(capability)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (found, *lines) = done.stdout.splitlines()
    assert found == version
    assert len(lines) >= 6 * 3 + 17
    for name, tile, _registers, stack, shared in map(str.split, lines):
        assert int(shared) <= shared_kib * 1024, (name, tile)
        assert int(stack) <= 256, (name, tile)  # a handful of registers a thread spilled


@pytest.mark.parametrize(("capability", "shared_kib"), [(80, 99), (90, 99), (100, 227)])  # 99: an A10 or L4 has no more
def test_every_kernel_compiles_and_fits(capability: int, shared_kib: int, tmp_path: Path) -> None:
    assert_compiles(capability, shared_kib, tmp_path, triton.__version__)


@pytest.mark.parametrize("version", ["3.4.0", "3.6.0", "3.8.0"])  # the oldest that is accepted, and later PyTorch's
def test_every_kernel_compiles_with_the_triton_of_a_released_pytorch(version: str, tmp_path: Path) -> None:
    target = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), f"triton=={version}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"Triton {version} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    assert_compiles(90, 99, tmp_path, version, target)
