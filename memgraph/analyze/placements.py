"""Reserved bytes where they depend on where the driver puts segments: up to torch 2.11 the lowest address decides ties
of the best fit."""

from __future__ import annotations

from typing import NamedTuple

from memgraph.analyze.served import through, version_of
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.segments import Scattered, SegmentAddresses, Upward
from memgraph.gpu.allocator.ties import Ties
from memgraph.trace import Trace

_SCATTERED = 4
"""Placements without a plan that are tried besides the two that go one way."""


class Interval(NamedTuple):
    """Reserved bytes, highest, over the placements that were tried."""

    low: int
    high: int


def reserved_interval(trace: Trace) -> Interval | None:
    """What a prediction reserves, over placements of its segments; None where that does not depend on them: on another
    torch, or in every placement alike."""
    version = version_of(trace.torch)
    if trace.origin != "predicted" or version is None or Ties.of(version) is not Ties.ADDRESS or not trace.fits:
        return None
    config = AllocatorConfig.parse(str(trace.settings.get("alloc_conf") or ""))
    placements: list[SegmentAddresses] = [Upward(), *map(Scattered, range(_SCATTERED))]
    found = [trace.peak.reserved]
    for addresses in placements:
        allocator = Allocator(2**62, config, addresses=addresses, torch=version)
        through(allocator, trace)
        found.append(allocator.peak_reserved)
    return Interval(min(found), max(found)) if min(found) != max(found) else None
