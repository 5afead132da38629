"""The settings of PyTorch's caching allocator that change sizes and places: PYTORCH_CUDA_ALLOC_CONF, read as torch
reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memgraph.errors import UsageError, unknown_name

MIB = 2**20
_KNOWN = (
    "max_split_size_mb", "max_non_split_rounding_mb", "garbage_collection_threshold", "roundup_power2_divisions",
    "expandable_segments", "backend",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "pinned_use_cuda_host_register", "pinned_num_register_threads", "pinned_use_background_threads",
    "pinned_reserve_segment_size_mb", "release_lock_on_cudamalloc", "release_lock_on_hipmalloc",
    "graph_capture_record_stream_reuse", "per_process_memory_fraction", "throw_on_cudamalloc_oom",
)  # fmt: skip
"""Settings of page-locked memory, locking and graphs: nothing that a plain step's device memory depends on."""

Divisions = tuple[tuple[int, int], ...]


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
    """(upper bound in MiB, divisions) in rising order; sizes are rounded up to that many steps between powers of
    two."""
    expandable_segments: bool = False

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
            settings.update(_setting(name, value))
        return cls(**settings)

    def divisions_of(self, size: int) -> int:
        """Into how many steps the power-of-two interval of `size` bytes is divided; 0 for none."""
        for bound, divisions in self.roundup_power2_divisions:
            if size <= bound * MIB:
                return divisions
        return self.roundup_power2_divisions[-1][1] if self.roundup_power2_divisions else 0


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


def _setting(name: str, value: str) -> dict[str, Any]:
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
    minimum = 20 if name == "max_split_size_mb" else 1
    size = int(_number(name, value, minimum - 0.5, 2**43)) * MIB
    return {name.removesuffix("_mb"): size}


def _boolean(name: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise UsageError(f"{name}:{value} is neither True nor False")
    return value == "True"


def _number(name: str, value: str, above: float, below: float) -> float:
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"{name}:{value} is not a number") from None
    if not above < number < below:
        raise UsageError(f"{name}:{value} is out of range: torch takes values above {above:g} and below {below:g}")
    return number


def _divisions(value: str) -> Divisions:
    """`4`, or `[256:1,512:2,>:8]` where each entry goes up to that many MiB."""
    if not value.startswith("["):
        return ((2**43, _power_of_two(value)),)
    entries = []
    for entry in value.strip("[]").split(","):
        bound, _, divisions = entry.partition(":")
        entries.append((2**43 if bound.strip() == ">" else _power_of_two(bound), _power_of_two(divisions)))
    return tuple(sorted(entries))


def _power_of_two(text: str) -> int:
    number = int(_number("roundup_power2_divisions", text, -0.5, 2**43))
    if number and number & (number - 1):
        raise UsageError(f"roundup_power2_divisions: {number} is not a power of two")
    return number
