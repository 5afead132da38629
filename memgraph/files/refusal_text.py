"""The text of PyTorch's out-of-memory error, as people post it: every wording from torch 1.0 to 2.15.

1.0 to 1.3 say `… already allocated; … free; … cached`, 1.4 to 2.0 `reserved in total by PyTorch`, 2.1 and later a
paragraph (`capacty` in 2.1); ROCm says HIP, and Apple's backend has words of its own. Source: the messages of
c10/cuda/CUDACachingAllocator.cpp and aten/src/ATen/mps/MPSAllocator.mm in each release. What other libraries, the
driver and the host say instead is told apart from it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memgraph.errors import UsageError
from memgraph.units import parse_bytes

_SIZE = r"((?<![\d.])\d{1,15}(?:\.\d{1,9})? ?(?:bytes|[KMGT]i?B))"
_FACTS = {
    "asked": (rf"[Tt]r(?:ied|ying) to allocate {_SIZE}", rf"Failed to allocate request for {_SIZE}"),
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
_MESSAGE = re.compile(
    r"\w+(?: backend)? out of memory(?: \(MPS[^)]*\))?\W{0,9}Tried to allocate|[Tt]ried to allocate[^(]{0,20}\(GPU \d"
)
"""How a message of PyTorch's allocator begins, on any device; or one that is cut short."""
_ELSEWHERE = {
    "jax": r"RESOURCE_EXHAUSTED|Resource exhausted: (?:Out of memory|Failed to allocate)",
    "tensorflow": r"ResourceExhaustedError|OOM when allocating tensor",
    "vllm": r"No available memory for the cache blocks|less than desired GPU memory utilization|"
    r"(?:needed|available).{0,60}KV cache|stored in KV cache",
    "cupy": r"cupy\.cuda\.memory\.OutOfMemoryError|Out of memory allocating [\d,]+ bytes",
    "triton": r"out of resource: ",
    "shm": r"out of shared memory|killed by signal: Bus error|unable to (?:open|allocate) shared memory",
    "host": r"DefaultCPUAllocator: |node running low on memory|"
    r"oom.kill|OOM Killed|is killed by signal: Killed|Cannot allocate memory|"
    r"Unable to allocate .{1,40} for an array",
    "nccl": r"(?:nccl|NCCL).*(?:out of memory|Failed to CUDA (?:[cm]|host )alloc)",
    "pinned": r"pin_memory.*CUDA error: out of memory",
    "cublas": r"CUBLAS_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)",
    "cudnn": r"CUDNN_STATUS_(?:INTERNAL_ERROR|ALLOC_FAILED|NOT_INITIALIZED)|valid cuDNN algorithm|"
    r"unable to find an engine to execute",
    "driver": r"CUDA (?:driver )?[Ee]rror: out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation",
}
"""What others say. The first that is found is meant."""
_DEVICES = {"MPS backend": "mps", "HIP": "hip", "XPU": "xpu", "NPU": "npu"}
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
    kind: str = "cuda"
    """Whose it is: PyTorch's allocator on a device, `cuda`, `hip`, `xpu`, `npu`, `mps`; or one of `_ELSEWHERE`."""
    messages: int = 1
    """How many such are in the text; this is the last."""
    setting: str = ""
    """The variable that it names for the allocator's settings."""
    old: bool = False
    """Whether it is in the words that torch had up to 2.0, whose allocator had no expandable segments."""


def parse_refusal(text: str) -> RefusalText:
    """Read a message, wherever in a text it stands; the last one, whose numbers no other's are mixed with.

    Raises:
        UsageError: there is no such message in it.
    """
    line = " ".join(text.split())
    places = [match.start() for match in _MESSAGE.finditer(line)]
    kind = _kind(line[places[-1] :] if places else line, bool(places))
    line = line[places[-1] :] if places else line
    found = {name: _first(patterns, line) for name, patterns in _FACTS.items()}
    if re.search(r"allocate more than 1EB", line):
        found["asked"] = 2**60
    if found["unused"] is None and found["reserved"] is not None and found["allocated"] is not None:
        if re.search(rf"{_SIZE} cached", line):  # 1.0 to 1.3 count what is cached and not in use
            found["unused"], found["reserved"] = found["reserved"], found["reserved"] + found["allocated"]
        else:
            found["unused"] = max(0, found["reserved"] - found["allocated"])
    elif found["reserved"] is None and found["unused"] is not None and found["allocated"] is not None:
        found["reserved"] = found["unused"] + found["allocated"]
    gpu = _GPU.search(line)
    processes = tuple(
        (int(number), used) for number, size in _PROCESS.findall(line) if (used := _bytes(size)) is not None
    )
    used = found["total"] - found["free"] if found["total"] is not None and found["free"] is not None else None
    own = _own(found["reserved"], processes, used) if found["in_use"] is None else None
    if own is not None:
        found["in_use"], processes = own[1], tuple(one for one in processes if one != own)
    return RefusalText(
        **found, gpu=int(gpu[1]) if gpu else None, processes=processes, kind=kind, messages=max(1, len(places)),
        setting=next(iter(re.findall(r"PYTORCH_\w*ALLOC_CONF", line)), ""), old="total capacity;" in line,
    )  # fmt: skip


def _kind(line: str, torchs: bool) -> str:
    if torchs:
        return next((kind for name, kind in _DEVICES.items() if line.startswith(name)), "cuda")
    found = next((kind for kind, pattern in _ELSEWHERE.items() if re.search(pattern, line)), None)
    if found is None and not re.search(r"out of memory", line, re.IGNORECASE):
        raise UsageError("that is no out-of-memory message: paste the line that begins with `CUDA out of memory`")
    return found or "cuda"


_CONTEXT = 2**30
"""Bytes that a process uses beside its allocator, at most: the CUDA context, libraries."""


def _own(reserved: int | None, processes: tuple[tuple[int, int], ...], used: int | None) -> tuple[int, int] | None:
    """The process that speaks, where it does not know itself: in a container it has another number than the driver
    tells (`reportProcessMemoryInfo` compares with `getpid()`, c10/cuda/CUDACachingAllocator.cpp). It is the one that
    uses what its allocator reserved, and a context; or more, where there is no room on the card for another.

    Args:
        used: bytes of the card that are not free.
    """
    if reserved is None:
        return None
    if used is not None and sum(size for _, size in processes) + reserved > used + 2**26:
        larger = [one for one in processes if one[1] >= reserved - 2**26]
        return min(larger, key=lambda one: one[1], default=None)
    near = [one for one in processes if reserved - 2**26 <= one[1] <= reserved + _CONTEXT]
    return min(near, key=lambda one: one[1], default=None)


def _first(patterns: tuple[str, ...], line: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, line):
            return _bytes(match[1])
    return None


def _bytes(text: str) -> int | None:
    """`0 bytes` and `2.00 GiB`; Apple's GB are binary, too. None of more than any memory: where NVIDIA's library does
    not know what a process uses it says 2^64 - 1."""
    number = text.removesuffix("bytes").strip()
    if float(re.match(r"[\d.]+", number)[0]) == 0:  # type: ignore[index]
        return 0
    try:
        return parse_bytes(number)
    except UsageError:
        return None
