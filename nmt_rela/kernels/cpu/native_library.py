"""The functions of ``native/``: compiled for this CPU on first use, and kept in the user's cache directory."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_char_p, c_int, c_int64, c_void_p
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
_TIMEOUT = 300.0  # seconds
_DIGEST_SIZE = 32
_ARGUMENTS = {
    "new_model": (c_void_p, c_void_p, c_void_p),
    "free_model": (c_void_p,),
    "new_state": (c_void_p, c_void_p, c_int, c_int, c_int64, c_void_p, c_void_p),
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
        function.argtypes, function.restype = arguments, None if name.startswith("free_") else c_char_p
        if function.restype is c_char_p:
            function.errcheck = _check
    return library


def _check(message: bytes | None, *_call: object) -> None:
    if message == b"out of memory":
        raise torch.OutOfMemoryError("no memory for the compiled decoder")
    if message is not None:
        raise IndexError(message.decode())


def _compiled() -> Path:
    """The library for this source, CPU and compiler, compiled if need be.

    Raises OSError, RuntimeError (no home directory, no AVX2, a failure of the compiler) or SubprocessError.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        raise RuntimeError("PyTorch sees no AVX2 on this CPU")
    compiler = _compiler()
    sources = sorted(_SOURCES.iterdir())
    key = hashlib.sha256("\0".join([*compiler, *_OPTIONS, _cpu(), *(x.read_text("utf-8") for x in sources)]).encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmt_rela"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if hasattr(os, "geteuid") and (found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022):
        raise PermissionError(f"other users may write to {folder}")  # and this process would run what they write
    library = folder / f"native-{key.hexdigest()[:16]}.so"
    if not library.exists() or _with_digest(library.read_bytes()[:-_DIGEST_SIZE]) != library.read_bytes():
        LOG.info("compiling the decoder for this CPU, once: %s", library)
        _compile(compiler, library)
    return library


def _compiler() -> list[str]:
    """A C++ compiler and the arguments that $CXX gives it."""
    cxx = os.environ.get("CXX", "")
    for command in ([cxx], cxx.split(), *([name] for name in _COMPILERS)):
        if command and (path := shutil.which(command[0])):
            return [path, *command[1:]]
    raise FileNotFoundError(f"found no C++ compiler ({', '.join(_COMPILERS)})")


def _compile(compiler: list[str], library: Path) -> None:
    # In a directory of its own: others may compile at the same time.
    with tempfile.TemporaryDirectory(dir=library.parent, ignore_cleanup_errors=True) as temporary:
        output, log = Path(temporary) / library.name, Path(temporary) / "log"
        line = [*compiler, *_OPTIONS, str(_SOURCES / "library.cpp"), "-o", str(output)]
        with log.open("wb") as stream:  # a pipe would wait for what a killed compiler leaves running
            status = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=_TIMEOUT)
        if status.returncode:
            messages = log.read_text("utf-8", errors="replace").strip().splitlines() or [f"status {status.returncode}"]
            raise RuntimeError(f"{compiler[0]} failed: {next((x for x in messages if 'error' in x), messages[0])}")
        output.write_bytes(_with_digest(output.read_bytes()))
        os.replace(output, library)


def _with_digest(code: bytes) -> bytes:
    """What the file of a library holds. The loader ignores the digest, and would crash on a damaged file."""
    return code + hashlib.sha256(code).digest()


def _cpu() -> str:
    """What the compiler's ``native`` depends on: machines that share a home directory may differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return " ".join(platform.uname())
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} takes more than {_TIMEOUT:g} seconds"
    return first_line(error)
