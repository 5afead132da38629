"""Builds `device.cpp` once per torch version, caches it, loads it with ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from memgraph.errors import ShimError

SOURCE = Path(__file__).with_name("device.cpp")


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built first if this torch has not been seen before.

    Raises:
        ShimError: there is no C++ compiler, the build failed, or the cache folder cannot be written.
    """
    path = library_path()
    if not path.exists():
        _build(path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ShimError(f"cannot load {path}: {error}; delete it and try again") from error


def cache_folder() -> Path:
    """`MEMGRAPH_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("MEMGRAPH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memgraph"


def library_path() -> Path:
    """Where the library for this torch, this source and this platform is, or will be."""
    facts = (torch.__version__, torch.__file__, SOURCE.read_text(), platform.machine(), sys.platform)
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]
    return cache_folder() / f"device-{torch.__version__}-{digest}.so"


def _build(path: Path) -> None:
    """Compile into a temporary file beside the target, then rename: never a half-written library."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
            built = Path(folder) / path.name
            _compile(built)
            built.replace(path)
    except OSError as error:
        raise ShimError(
            f"cannot write the cache folder {path.parent}: {error.strerror or error}; "
            "set MEMGRAPH_CACHE to one that can be written"
        ) from error


def _compile(output: Path) -> None:
    command = _command(output)
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise _failed(f"cannot run {command[0]}: {error.strerror or error}; set CXX to a C++ compiler") from error
    if result.returncode != 0:
        raise _failed(_first_error(result.stderr) or f"the compiler said nothing (exit code {result.returncode})")


def _failed(reason: str) -> ShimError:
    return ShimError(f"building the virtual device for torch {torch.__version__} failed: {reason}")


def _first_error(text: str) -> str:
    """The first line that speaks of an error, else the first that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "")[:200]


def _command(output: Path) -> list[str]:
    root = Path(torch.__file__).parent
    abi = int(torch.compiled_with_cxx11_abi())
    return [
        _compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
        f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}",
        str(SOURCE), "-o", str(output), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root / 'lib'}",
    ]  # fmt: skip


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise ShimError("no C++ compiler found, and the virtual device has to be compiled once: install g++ or set CXX")
