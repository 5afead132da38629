"""Where cuDNN is, if it is here: beside a CUDA build of torch, or as the packages of the extra `memgraph[cudnn]`."""

from __future__ import annotations

import importlib.util
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "MEMGRAPH_CUDNN"
"""Path of `libcudnn.so.9`, or `off`."""
_NAME = "libcudnn.so.9"
_NEEDS = ("libcublasLt.so.13", "libcublasLt.so.12", "libnvrtc.so.13", "libnvrtc.so.12")
"""Libraries that cuDNN opens by name; without the first it aborts the process."""


class Library(NamedTuple):
    """cuDNN on this machine."""

    path: str
    needs: tuple[str, ...]
    """Libraries to load before it."""
    stamp: str
    """Tells this copy from another: size and time of its file."""


@cache
def find() -> Library | None:
    """The library, or None if it is not installed, switched off, or lacks a part without which it aborts."""
    setting = os.environ.get(VARIABLE, "")
    if setting.lower() in ("off", "0", "no"):
        return None
    path = Path(setting) if setting else _packaged(_NAME)
    if path is None or not path.is_file():
        return None
    needs = [found for name in _NEEDS if (found := _packaged(name)) is not None]
    if not any(need.name.startswith("libcublasLt") for need in needs):
        return None
    status = path.stat()
    return Library(str(path), tuple(map(str, needs)), f"{status.st_size}-{int(status.st_mtime)}")


def _packaged(name: str) -> Path | None:
    """A library of NVIDIA's packages, which all live in the namespace `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [path for place in places for path in Path(place).glob(f"*/lib/{name}")]
    return max(found, key=_version_of, default=None)


def _version_of(path: Path) -> int:
    """Of the folder: `cu13` is newer than `cublas`, which is CUDA 12's."""
    number = re.search(r"cu(\d+)$", path.parent.parent.name)
    return int(number[1]) if number else 0
