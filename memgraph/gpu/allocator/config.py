"""The settings of PyTorch's caching allocator that change sizes and places: PYTORCH_CUDA_ALLOC_CONF, read as torch
reads it."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from memgraph.errors import UsageError, unknown_name

MIB = 2**20
_KNOWN = (
    "max_split_size_mb", "max_non_split_rounding_mb", "garbage_collection_threshold", "roundup_power2_divisions",
    "expandable_segments", "large_segment_size_mb", "per_process_memory_fraction", "backend",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "pinned_use_cuda_host_register", "pinned_num_register_threads", "pinned_use_background_threads",
    "pinned_reserve_segment_size_mb", "pinned_free_catch_all", "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb", "release_lock_on_cudamalloc", "release_lock_on_hipmalloc",
    "graph_capture_record_stream_reuse", "throw_on_cudamalloc_oom",
)  # fmt: skip
"""Settings of page-locked memory, locking and graphs: nothing that a plain step's device memory depends on."""
_TRUE_OR_FALSE = (
    "pinned_use_cuda_host_register", "pinned_use_background_threads", "pinned_free_catch_all",
    "release_lock_on_cudamalloc", "release_lock_on_hipmalloc", "graph_capture_record_stream_reuse",
    "throw_on_cudamalloc_oom",
)  # fmt: skip
_SIGNS = frozenset(",:[]")
_DECIMAL = re.compile(r"[0-9]+\.?[0-9]*(e[+-]?[0-9]{1,3})?|\.[0-9]+", re.IGNORECASE)
_DIGITS = 20
"""As many as the largest number has that torch reads."""

_INTERVALS = 16
"""Powers of two that have divisions of their own: from 1 MiB (and what is below it) to 32 GiB (and above)."""

Divisions = tuple[int, ...]
"""For each interval, into how many steps it is divided; 0 for none. Empty: none anywhere."""


def configured() -> str:
    """What the environment says now."""
    return os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF") or ""


@dataclass(frozen=True)
class AllocatorConfig:
    """Settings in bytes. Source: c10/core/AllocatorConfig.h and c10/cuda/CUDAAllocatorConfig.h of torch 2.11 to
    2.15."""

    max_split_size: int | None = None
    """Larger blocks are never split; None is no limit."""
    max_non_split_rounding: int = 20 * MIB
    """How much larger than asked an unsplit block may be."""
    garbage_collection_threshold: float = 0.0
    """Share of the allowed memory above which old cached blocks are freed; 0 is never."""
    roundup_power2_divisions: Divisions = ()
    """Sizes are rounded up to that many steps between powers of two."""
    expandable_segments: bool = False
    large_segment_size: int = 20 * MIB
    """The segment that serves requests above 1 and below 10 MiB."""
    per_process_memory_fraction: float = 1.0
    """Share of the card's memory that may be reserved."""
    text: str = field(default="", compare=False)
    """What it was read from."""

    def limit(self, total: int) -> int | None:
        """Bytes that may be reserved of a card's memory, None for all."""
        share = self.per_process_memory_fraction
        return int(share * total) if share < 1 else None

    @classmethod
    def parse(cls, text: str) -> AllocatorConfig:
        """`max_split_size_mb:128,expandable_segments:True` and the like; an empty text is the defaults.

        Raises:
            UsageError: an unknown setting or an impossible value.
        """
        settings: dict[str, Any] = {}
        for name, value in _pairs(text):
            if name in _WITHOUT_EFFECT:
                _ignored(name, value)
                continue
            if name not in _KNOWN:
                raise unknown_name("allocator setting", name, _KNOWN)
            settings.update(_setting(name, value, settings.get("large_segment_size", 20 * MIB)))
        if "large_segment_size" in settings:
            settings.setdefault("max_non_split_rounding", settings["large_segment_size"])
        return cls(**settings, text=text)

    def told(self) -> dict[str, Any]:
        """As a memory snapshot tells them (`THCPModule_memorySnapshot` of torch/csrc/cuda/Module.cpp); those of
        page-locked memory as torch has them where nothing is said."""
        divisions = self.roundup_power2_divisions or (0,) * _INTERVALS
        return {
            "PYTORCH_CUDA_ALLOC_CONF": self.text,
            "max_split_size": -1 if self.max_split_size is None else self.max_split_size,
            "garbage_collection_threshold": self.garbage_collection_threshold,
            "expandable_segments": self.expandable_segments, "pinned_num_register_threads": 1,
            "release_lock_on_cudamalloc": False, "pinned_use_cuda_host_register": False,
            "roundup_power2_divisions": {str(2**place): steps for place, steps in enumerate(divisions)},
        }  # fmt: skip

    def divisions_of(self, size: int) -> int:
        """Into how many steps the power-of-two interval of `size` bytes is divided; 0 for none."""
        if not self.roundup_power2_divisions:
            return 0
        return self.roundup_power2_divisions[_interval(size // MIB)]


def _interval(mib: int) -> int:
    """0 below 2 MiB, 1 below 4, and so on."""
    return min(max(mib, 1).bit_length() - 1, _INTERVALS - 1)


Values = tuple[str, ...]
"""The tokens of a setting's value: one, or those of a list with its brackets."""


def _tokens(text: str) -> list[str]:
    """Keys, values and the four signs between them; spaces are nothing, wherever they stand (`ConfigTokenizer`,
    c10/core/AllocatorConfig.h)."""
    return re.findall(r"[,:\[\]]|[^,:\[\]]+", re.sub(r"[ \t\n\v\f\r]+", "", text))


def _pairs(text: str) -> Iterator[tuple[str, Values]]:
    """`a:1,b:[256:1,512:2],c:2,` as pairs. torch does not look which sign stands between two settings; here it is a
    comma."""
    tokens = deque(_tokens(text))
    while tokens:
        name = tokens.popleft()
        if name in _SIGNS or len(tokens) < 2 or tokens.popleft() != ":":
            raise UsageError(f"{name!r} is not a setting: write it like max_split_size_mb:128")
        yield name, _value(name, tokens)
        if tokens and (sign := tokens.popleft()) != ",":
            raise UsageError(f"{sign!r} after the value of {name}: settings are separated by commas")


def _value(name: str, tokens: deque[str]) -> Values:
    """Takes a setting's value off the front."""
    first = tokens.popleft()
    if first != "[":
        if first in _SIGNS:
            raise UsageError(f"{name}:{first} is not a setting: write it like max_split_size_mb:128")
        return (first,)
    if "]" not in tokens:
        raise UsageError(f"{name}:[ is a list without its end: write it like roundup_power2_divisions:[256:1,512:2]")
    return (first, *iter(tokens.popleft, "]"), "]")


def _setting(name: str, value: Values, large: int) -> dict[str, Any]:
    if name == "roundup_power2_divisions":
        return {name: _divisions(value)}
    if len(value) > 1:
        raise UsageError(f"{name} is one value and no list")
    (text,) = value
    if name == "expandable_segments":
        return {name: _boolean(name, text)}
    if name == "garbage_collection_threshold":
        return {name: _number(name, text, 0.0, 1.0)}
    if name == "backend":
        if text != "native":
            raise UsageError(f"backend:{text} is another allocator; memgraph models backend:native")
        return {}
    if name == "per_process_memory_fraction":
        return {name: _number(name, text, 0.0, 1.0, closed=True)}
    least = 11 if name == "large_segment_size_mb" else large // MIB
    return {name.removesuffix("_mb"): _whole(name, text, least) * MIB}


def _ignored(name: str, value: Values) -> None:
    """A setting without effect here is still one that torch would take."""
    if len(value) == 1 and name in _TRUE_OR_FALSE:
        _boolean(name, value[0])
    elif len(value) == 1:
        _whole(name, value[0], 0)
    else:
        raise UsageError(f"{name} is one value and no list")


def _boolean(name: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise UsageError(f"{name}:{value} is neither True nor False")
    return value == "True"


def _number(name: str, value: str, low: float, high: float, *, closed: bool = False) -> float:
    """A number between `low` and `high`; these too where the range is closed."""
    if not _DECIMAL.fullmatch(value):
        raise UsageError(f"{name}:{value} is not a number")
    number = float(value)
    if not (low < number < high or (closed and number in (low, high))):
        bounds = f"from {low:g} to {high:g}" if closed else f"above {low:g} and below {high:g}"
        raise UsageError(f"{name}:{value} is out of range: torch takes values {bounds}")
    return number


def _whole(name: str, value: str, least: int) -> int:
    """A whole number of at least `least`. (torch reads `1e3` as 1 and `64MB` as 64.)"""
    if not re.fullmatch("[0-9]+", value):
        raise UsageError(f"{name}:{value} is not a number: it must be a whole one")
    if len(value) > _DIGITS or not least <= int(value) <= 2**43:
        raise UsageError(f"{name}:{value} is out of range: torch takes values from {least} to {2**43}")
    return int(value)


def _divisions(value: Values) -> Divisions:
    """`4`, or `[256:1,512:2,>:8]`: an entry is for sizes from that many MiB to the next power of two. The first one is
    also for all below it, `>` for all above the entry before it, and what no entry names is not divided."""
    if len(value) == 1:
        return (_power_of_two(value[0], least=1),) * _INTERVALS
    divisions, last = [0] * _INTERVALS, 0
    for number, (bound, steps) in enumerate(_entries(value[1:-1])):
        if bound == ">":
            divisions[last + 1 :] = [_power_of_two(steps)] * (_INTERVALS - last - 1)
            continue
        last = _interval(_power_of_two(bound, least=1))
        below = range(last) if number == 0 else ()
        for place in (*below, last):
            divisions[place] = _power_of_two(steps)
    return tuple(divisions)


def _entries(tokens: Values) -> Iterator[tuple[str, str]]:
    """`256:1,512:2,` as pairs."""
    for start in range(0, len(tokens), 4):
        entry = tokens[start : start + 4]
        if len(entry) < 3 or entry[1] != ":" or {entry[0], entry[2]} & _SIGNS or entry[3:] not in ((), (",",)):
            raise UsageError(
                f"roundup_power2_divisions:[{''.join(tokens)}] is no list of divisions: write it like [256:1,512:2,>:8]"
            )
        yield entry[0], entry[2]


def _power_of_two(text: str, least: int = 0) -> int:
    number = _whole("roundup_power2_divisions", text, least)
    if number & (number - 1):
        raise UsageError(f"roundup_power2_divisions: {number} is not a power of two")
    return number
