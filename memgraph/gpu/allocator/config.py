"""The settings of PyTorch's caching allocator that change sizes and places: PYTORCH_CUDA_ALLOC_CONF, read as torch
reads it."""

from __future__ import annotations

from dataclasses import dataclass
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

_INTERVALS = 16
"""Powers of two that have divisions of their own: from 1 MiB (and what is below it) to 32 GiB (and above)."""

Divisions = tuple[int, ...]
"""For each interval, into how many steps it is divided; 0 for none. Empty: none anywhere."""


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

    @classmethod
    def parse(cls, text: str) -> AllocatorConfig:
        """`max_split_size_mb:128,expandable_segments:True` and the like; an empty text is the defaults.

        Raises:
            UsageError: an unknown setting or an impossible value.
        """
        settings: dict[str, Any] = {}
        for name, value in _pairs(text):
            if name in _WITHOUT_EFFECT:
                continue
            if name not in _KNOWN:
                raise unknown_name("allocator setting", name, _KNOWN)
            settings.update(_setting(name, value, settings.get("large_segment_size", 20 * MIB)))
        if "large_segment_size" in settings:
            settings.setdefault("max_non_split_rounding", settings["large_segment_size"])
        return cls(**settings)

    def divisions_of(self, size: int) -> int:
        """Into how many steps the power-of-two interval of `size` bytes is divided; 0 for none."""
        if not self.roundup_power2_divisions:
            return 0
        return self.roundup_power2_divisions[_interval(size // MIB)]


def _interval(mib: int) -> int:
    """0 below 2 MiB, 1 below 4, and so on."""
    return min(max(mib, 1).bit_length() - 1, _INTERVALS - 1)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`a:1,b:[256:1,512:2],c:2` as pairs; commas inside brackets do not separate."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text + ","):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    pairs = []
    for part in filter(None, parts):
        name, colon, value = part.partition(":")
        if not colon or not value:
            raise UsageError(f"{part!r} is not a setting: write it like max_split_size_mb:128")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _setting(name: str, value: str, large: int) -> dict[str, Any]:
    if name == "expandable_segments":
        return {name: _boolean(name, value)}
    if name == "garbage_collection_threshold":
        return {name: _number(name, value, 0.0, 1.0)}
    if name == "roundup_power2_divisions":
        return {name: _divisions(value)}
    if name == "backend":
        if value != "native":
            raise UsageError(f"backend:{value} is another allocator; memgraph models backend:native")
        return {}
    if name == "per_process_memory_fraction":
        return {name: _number(name, value, 0.0, 1.0, closed=True)}
    least = 11 if name == "large_segment_size_mb" else large // MIB
    return {name.removesuffix("_mb"): int(_number(name, value, least, 2**43, closed=True)) * MIB}


def _boolean(name: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise UsageError(f"{name}:{value} is neither True nor False")
    return value == "True"


def _number(name: str, value: str, low: float, high: float, *, closed: bool = False) -> float:
    """A number between `low` and `high`; these too where the range is closed."""
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"{name}:{value} is not a number") from None
    if not (low < number < high or (closed and number in (low, high))):
        bounds = f"from {low:g} to {high:g}" if closed else f"above {low:g} and below {high:g}"
        raise UsageError(f"{name}:{value} is out of range: torch takes values {bounds}")
    return number


def _divisions(value: str) -> Divisions:
    """`4`, or `[256:1,512:2,>:8]`: an entry is for sizes from that many MiB to the next power of two. The first one is
    also for all below it, `>` for all above the entry before it, and what no entry names is not divided."""
    if not value.startswith("["):
        return (_power_of_two(value, least=1),) * _INTERVALS
    divisions, last = [0] * _INTERVALS, 0
    for number, entry in enumerate(value.strip("[]").split(",")):
        bound, _, steps = entry.partition(":")
        if bound.strip() == ">":
            divisions[last + 1 :] = [_power_of_two(steps)] * (_INTERVALS - last - 1)
            continue
        last = _interval(_power_of_two(bound, least=1))
        below = range(last) if number == 0 else ()
        for place in (*below, last):
            divisions[place] = _power_of_two(steps)
    return tuple(divisions)


def _power_of_two(text: str, least: int = 0) -> int:
    number = int(_number("roundup_power2_divisions", text, least, 2**43, closed=True))
    if number & (number - 1):
        raise UsageError(f"roundup_power2_divisions: {number} is not a power of two")
    return number
