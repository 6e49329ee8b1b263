"""The interpreter forgives what a compiler does not, so the kernels are compiled too; that needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

SCRIPT = Path(__file__).parent.parent / "compile_kernels.py"


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "shared_kib"), [(80, 99), (90, 99), (100, 227)])  # 99: an A10 or L4 has no more
def test_every_kernel_compiles_and_fits(capability: int, shared_kib: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(SCRIPT.parent.parent)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(capability)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) >= 6 * 3 + 3
    for name, tile, _registers, stack, shared in lines:
        assert int(shared) <= shared_kib * 1024, (name, tile)
        assert int(stack) <= 192, (name, tile)  # a handful of registers a thread spilled
