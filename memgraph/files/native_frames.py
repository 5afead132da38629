"""Frames of C++ as older torch, and torch without a demangler, write them."""

from __future__ import annotations

import functools
import re

_LINE = re.compile(r"^frame #\d+: (?P<name>.+) \+ 0x[0-9a-f]+ \(0x[0-9a-f]+ in (?P<file>.*)\)$", re.MULTILINE)
"""As `c10::get_backtrace` writes a frame (c10/util/Backtrace.cpp); what it cannot name, and frames of Python that it
leaves out, are written otherwise."""
_NESTED = re.compile(r"^_ZN[rVK]*(?=\d)")
_LENGTH = re.compile(r"\d+")


def native_frames(text: str) -> list[dict[str, str | int]]:
    """The frames of a backtrace, the innermost first: torch 2.0 keeps it as one text beside the frames of Python
    (`cpp_frames`, torch/csrc/cuda/Module.cpp)."""
    return [{"name": m["name"], "filename": m["file"], "line": 0} for m in _LINE.finditer(text)]


@functools.lru_cache(maxsize=65536)
def demangled(name: str) -> str:
    """`at::_ops::mm::call(` for `_ZN2at4_ops2mm4callERKNS_6TensorES3_`: the names of a function in namespaces, without
    what it takes (Itanium C++ ABI, 5.1.2). Any other name is as it was."""
    begin = _NESTED.match(name)
    at, parts = begin.end() if begin else len(name), list[str]()
    while length := _LENGTH.match(name, at):
        at = length.end() + int(length[0])
        parts.append(name[length.end() : at])
    return "::".join(parts) + "(" if parts and at < len(name) else name
