"""Freed memory stays in the process until it is trimmed, measured by page faults and resident pages; the limit of
compiled matmuls. tests/integration/test_streams.py measures the effect of that limit.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from nmt_rela.kernels.cpu.matmul_cache import keep_training_matmuls, limit_onednn_cache

_PROGRAM = """
import ctypes, json, resource, sys
from pathlib import Path
from nmt_rela.utils.memory import disable_malloc_trimming, trim_malloc

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        blocks = [libc.malloc(24 << 20) for _ in range(4)]  # below what the oldest glibc can be told to keep
        for block in blocks:
            libc.memset(block, 1, 24 << 20)
        for block in blocks:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

found = {"pages": 4 * (24 << 20) // resource.getpagesize(), "before": faults(3)}
disable_malloc_trimming()
faults(1)  # the pages are fetched once more
found["kept"] = faults(3)
found["resident"] = resident()
trim_malloc()
found["released"] = resident()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc: nothing is set there")
def test_freed_memory_is_kept_until_it_is_released() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["before"] > 2 * found["pages"]  # every round fetches its pages
    assert found["kept"] < found["pages"] / 10
    assert found["released"] < found["resident"] - (50 << 20)


def test_values_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "500")
    limit_onednn_cache(2)
    assert os.environ["LRU_CACHE_CAPACITY"] == "500"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "32"


def test_training_keeps_more_matmuls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "500")
    keep_training_matmuls()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "500"
    assert os.environ["LRU_CACHE_CAPACITY"] == "16"
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    keep_training_matmuls()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "8192"
