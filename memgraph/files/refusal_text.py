"""The text of PyTorch's out-of-memory error, as people post it: every wording from torch 1.0 to 2.15.

1.0 to 1.3 say `… already allocated; … free; … cached`, 1.4 to 2.0 `reserved in total by PyTorch`, 2.1 and later a
paragraph (`capacty` in 2.1); ROCm says HIP, and Apple's backend has words of its own. Source: the messages of
c10/cuda/CUDACachingAllocator.cpp and aten/src/ATen/mps/MPSAllocator.mm in each release.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memgraph.errors import UsageError
from memgraph.units import parse_bytes

_SIZE = r"((?<![\d.])\d{1,15}(?:\.\d{1,9})? ?(?:bytes|[KMGT]i?B))"
_FACTS = {
    "asked": (rf"[Tt]ried to allocate {_SIZE}",),
    "total": (rf"{_SIZE} total capacity", rf"total capaci?ty of {_SIZE}", rf"max allowed: {_SIZE}"),
    "free": (rf"capacity;.*?{_SIZE} free", rf"of which {_SIZE} is free"),
    "in_use": (rf"[Tt]his process has {_SIZE} memory in use",),
    "allocated": (rf"{_SIZE} already allocated", rf"{_SIZE} is allocated by PyTorch", rf"MPS allocated: {_SIZE}"),
    "reserved": (rf"{_SIZE} reserved in total", rf"{_SIZE} cached"),
    "unused": (rf"{_SIZE} is reserved by PyTorch but unallocated",),
    "allowed": (rf"{_SIZE} allowed",),
    "pools": (rf"{_SIZE} allocated in private pools",),
    "other": (rf"other allocations: {_SIZE}",),
}
_PROCESS = re.compile(rf"Process (\d{{1,15}}) has {_SIZE} memory in use")
_GPU = re.compile(r"GPU (\d{1,9})(?!\d)")


class RefusalText(NamedTuple):
    """What an error says. Bytes; None where it does not say so."""

    asked: int | None
    total: int | None
    """What the card has."""
    free: int | None
    """What was free on it."""
    in_use: int | None
    """What this process used of it, with what is not PyTorch's."""
    allocated: int | None
    reserved: int | None
    unused: int | None
    """Reserved and not allocated."""
    allowed: int | None
    """A limit that was set."""
    pools: int | None
    """Allocated in pools of CUDA graphs."""
    other: int | None
    gpu: int | None
    processes: tuple[tuple[int, int], ...]
    """Other processes: number and bytes."""


def parse_refusal(text: str) -> RefusalText:
    """Read a message, wherever in a text it stands.

    Raises:
        UsageError: there is no such message in it.
    """
    line = " ".join(text.split())
    if not re.search(r"out of memory", line, re.IGNORECASE):
        raise UsageError("that is no out-of-memory message: paste the line that begins with `CUDA out of memory`")
    found = {name: _first(patterns, line) for name, patterns in _FACTS.items()}
    if found["unused"] is None and found["reserved"] is not None and found["allocated"] is not None:
        if re.search(rf"{_SIZE} cached", line):  # 1.0 to 1.3 count what is cached and not in use
            found["unused"], found["reserved"] = found["reserved"], found["reserved"] + found["allocated"]
        else:
            found["unused"] = max(0, found["reserved"] - found["allocated"])
    elif found["reserved"] is None and found["unused"] is not None and found["allocated"] is not None:
        found["reserved"] = found["unused"] + found["allocated"]
    gpu = _GPU.search(line)
    processes = tuple((int(number), _bytes(size)) for number, size in _PROCESS.findall(line))
    own = _own(found["reserved"], processes) if found["in_use"] is None else None
    if own is not None:
        found["in_use"], processes = own[1], tuple(one for one in processes if one != own)
    return RefusalText(**found, gpu=int(gpu[1]) if gpu else None, processes=processes)


_CONTEXT = 2**30
"""Bytes that a process uses beside its allocator, at most: the CUDA context, libraries."""


def _own(reserved: int | None, processes: tuple[tuple[int, int], ...]) -> tuple[int, int] | None:
    """The process that speaks, where it does not know itself: in a container it has another number than the driver
    tells (`reportProcessMemoryInfo` compares with `getpid()`, c10/cuda/CUDACachingAllocator.cpp). It is the one that
    uses what its allocator reserved, and a context."""
    if reserved is None:
        return None
    near = [one for one in processes if reserved - 2**26 <= one[1] <= reserved + _CONTEXT]
    return min(near, key=lambda one: one[1], default=None)


def _first(patterns: tuple[str, ...], line: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, line):
            return _bytes(match[1])
    return None


def _bytes(text: str) -> int:
    """`0 bytes` and `2.00 GiB`; Apple's GB are binary, too."""
    number = text.removesuffix("bytes").strip()
    return 0 if float(re.match(r"[\d.]+", number)[0]) == 0 else parse_bytes(number)  # type: ignore[index]
