"""The functions of ``native/``: compiled for this CPU on first use, and kept in the user's cache directory."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch

from nmt_rela.kernels.availability import VARIABLE, kernel_mode
from nmt_rela.utils.errors import ConfigError, first_line

LOG = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent / "native"
_COMPILERS = ("g++", "clang++", "c++")
_OPTIONS = (
    "-O3", "-march=native", "-std=c++17", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC",
)  # fmt: skip
_ARGUMENTS = {
    "new_model": (c_void_p, c_void_p),
    "free_model": (c_void_p,),
    "new_state": (c_void_p, c_void_p, c_int, c_int, c_int64, c_void_p),
    "free_state": (c_void_p,),
    "step": (c_void_p, c_void_p, c_int, c_void_p, c_void_p),
    "reorder": (c_void_p, c_void_p, c_int),
    "select_sentences": (c_void_p, c_void_p, c_int),
    "beam_step": (c_void_p,),
}


@cache
def native_library() -> ctypes.CDLL | None:
    """The compiled functions; None, with one line in the log, where they cannot be had.

    Raises ConfigError if NMT_RELA_KERNELS is ``require`` and they cannot.
    """
    if kernel_mode() == "off":
        return None
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        if kernel_mode() == "require":
            raise ConfigError(f"{VARIABLE}: found 'require', but {_reason(error)}") from error
        LOG.info("PyTorch decodes on the CPU, several times slower with single sentences, because %s", _reason(error))
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_void_p if name.startswith("new_") else None
    return library


def _compiled() -> Path:
    """The library for this source, CPU and compiler, compiled if need be.

    Raises OSError, RuntimeError (no home directory, no AVX2) or SubprocessError.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        raise RuntimeError("this CPU has no AVX2")  # compiled without vectors it would be far slower than PyTorch
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS))), None)
    if compiler is None:
        raise FileNotFoundError(f"found no C++ compiler ({', '.join(_COMPILERS)})")
    sources = sorted(_SOURCES.iterdir())
    key = hashlib.sha256("\0".join([compiler, *_OPTIONS, _cpu(), *(x.read_text("utf-8") for x in sources)]).encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmt_rela"
    library = folder / f"native-{key.hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        LOG.info("compiling the decoder for this CPU, once: %s", library)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:  # others may compile at the same time
            output = Path(temporary) / library.name
            line = [compiler, *_OPTIONS, str(_SOURCES / "library.cpp"), "-o", str(output)]
            subprocess.run(line, check=True, capture_output=True, text=True)
            os.replace(output, library)
    return library


def _cpu() -> str:
    """What the compiler's ``native`` depends on: machines that share a home directory may differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return " ".join(os.uname())
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} failed: {error.stderr.strip().partition(chr(10))[0]}"
    return first_line(error)
