"""Which engines cuDNN's heuristics proposed and then left out, because without a driver they cannot be had.

Before it gives its proposals the library checks each, and those that fail are not in the answer. Winograd's and
Fourier's kernels, products through cuBLAS and some for depthwise convolutions fail wherever there is no driver, and
serve on the card: through a handle, and from a description on a machine with a driver, cuDNN 9.19 gave the very lists
that it gives here, with these engines in their places (of 35,355 weight gradients of an H200 that began with engine
17 all). What fails it says in its log, which a program may take by `cudnnSetCallback`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_INFORMATION = 1 << 3
"""The bit of `CUDNN_SEV_INFO` in the callback's mask."""
_CHECKS = b"engine_config_support_checks"
_ENGINE = re.compile(rb'engineConfig:.*"engineId":(\d+)')


class Refusals:
    """Listens to the library's log.

    Args:
        library: libcudnn.so.9, loaded.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._found: list[int] = []
        self._callback = _CALLBACK(self._hear)

    @contextmanager
    def heard(self) -> Iterator[list[int]]:
        """The engines that are left out of what is asked for meanwhile, in the order of the proposals."""
        self._found = []
        self._library.cudnnSetCallback(ctypes.c_uint(_INFORMATION), None, self._callback)
        try:
            yield self._found
        finally:
            self._library.cudnnSetCallback(ctypes.c_uint(0), None, self._callback)

    def _hear(self, severity: int, data: int | None, about: int | None, message: int) -> None:
        """A message is lines that end with zero, and an empty one."""
        line = ctypes.string_at(message)
        if _CHECKS not in line:
            return
        while line:
            self._found += (int(found[1]) for found in _ENGINE.finditer(line))
            message += len(line) + 1
            line = ctypes.string_at(message)
