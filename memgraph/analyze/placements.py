"""Reserved bytes where they depend on where the driver puts segments: up to torch 2.11 the lowest address decides ties
of the best fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memgraph.analyze.served import BEHIND, is_long, through, version_of
from memgraph.analyze.streams import bounds
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.segments import Scattered, SegmentAddresses, Upward
from memgraph.gpu.allocator.ties import Ties
from memgraph.trace import Trace


class Interval(NamedTuple):
    """Reserved bytes, highest, over what was tried."""

    low: int
    high: int


def depends_on_placement(trace: Trace) -> bool:
    """Whether it may, by the torch whose allocator it is."""
    version = version_of(trace.torch)
    return trace.origin == "predicted" and version is not None and Ties.of(version) is Ties.ADDRESS and trace.fits


def reserved_interval(trace: Trace) -> Interval | None:
    """What a prediction reserves, over placements of its segments; None where they change nothing: on another torch, or
    in every placement alike. Where it is open too when blocks come back (`bounds`), over both. None of a long
    trace."""
    version = version_of(trace.torch)
    if version is None or not depends_on_placement(trace) or is_long(trace):
        return None
    config = AllocatorConfig.parse(str(trace.settings.get("alloc_conf") or ""))
    known = [end for row in bounds(trace) if row.kind == "reserved" for end in (row.eager, row.lazy)]
    known.append(trace.peak.reserved)
    found = list(known)
    for addresses, behind in tried(is_open=bool(trace.waits or trace.late)):
        allocator = Allocator(2**62, config, addresses=addresses, torch=version)
        through(allocator, trace, behind=behind, late=True)
        found.append(allocator.peak_reserved)
    low, high = min(found), max(found)
    return None if (low, high) == (min(known), max(known)) else Interval(low, high)


def tried(*, is_open: bool) -> Iterator[tuple[SegmentAddresses, int | None]]:
    """Placements, and by how many allocations the card is behind; None: as far as can be."""
    for placement, behind in enumerate((0, *BEHIND)):
        for lag in (None, behind) if is_open else (None,):
            yield Scattered(placement - 1) if placement else Upward(), lag
