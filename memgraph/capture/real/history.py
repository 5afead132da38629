"""A real CUDA run, seen by torch's own allocator history, as a measured `Trace`.

`torch.cuda.memory._record_memory_history` keeps every event of the caching allocator: allocations with their requested
bytes, frees, segments. It knows addresses and order, not ops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from memgraph.capture.real.hook import require_gpu
from memgraph.errors import MemgraphError
from memgraph.files import snapshot_file
from memgraph.files.told_buffers import for_trace
from memgraph.trace import Action, Events, Phase, Trace

_MAX_ENTRIES = 50_000_000
"""Entries that torch keeps; far more than a run has, and only those used take memory."""


class History:
    """A recording in progress. Phases are tied to events by the allocator's own count of allocations."""

    def __init__(self, settings: Mapping[str, Any], cap: int | None = None) -> None:
        self.settings = dict(settings)
        self.statistics: dict[str, dict[str, int]] = {}
        self._marks: list[tuple[str, int, int]] = []
        self._step = 0
        self._cap = cap
        self._trace: Trace | None = None

    def mark(self, phase: str) -> None:
        """From here on it is this phase; `input` begins the next step."""
        torch.cuda.synchronize()
        if phase == "input":
            self._step += 1
            if self._step == 1:
                self.statistics["after_load"] = _statistics()
        self._marks.append((phase, self._step, int(torch.cuda.memory_stats()["allocation.all.allocated"])))

    @property
    def trace(self) -> Trace:
        """The recording, once it is over."""
        if self._trace is None:
            raise MemgraphError("the recording is still running: leave its `with` block first")
        return self._trace

    def finish(self, snapshot: Mapping[str, Any]) -> None:
        """Turn torch's snapshot into a trace."""
        self.statistics["end"] = _statistics()
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        read = snapshot_file.read(snapshot, torch.cuda.current_device())
        self._trace = Trace(
            origin="measured", gpu=properties.name, memory=self._cap or properties.total_memory,
            torch=torch.__version__, settings={**self.settings, "statistics": self.statistics}, ops=(),
            buffers=for_trace(read.buffers), events=read.events, phases=_phases(self._marks, read.events, read.before),
        )  # fmt: skip


@contextlib.contextmanager
def record_history(settings: Mapping[str, Any], cap: int | None = None) -> Iterator[History]:
    """Record what the native caching allocator does while open.

    Args:
        cap: bytes that it may reserve, through torch's memory fraction; default the card's.

    Raises:
        MemgraphError: there is no GPU.
    """
    require_gpu()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    history = History(settings, cap)
    if cap is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / _total()))
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=_MAX_ENTRIES)
    try:
        history.mark("load")
        yield history
    finally:
        snapshot = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)
        if cap is not None:
            torch.cuda.set_per_process_memory_fraction(1.0)
        history.finish(snapshot)


def _total() -> int:
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def _phases(marks: list[tuple[str, int, int]], events: Events, before: int = 0) -> tuple[Phase, ...]:
    """Each mark stands before the event that follows as many allocations as had been made; a segment that was taken
    for that allocation comes after the mark too.

    Args:
        before: events at the front for what was there before the first mark.
    """
    actions = events.columns[0]
    positions = [
        _with_segment(actions, index) for index in range(before, len(actions)) if actions[index] == Action.ALLOC
    ]
    positions.append(len(events))
    base = marks[0][2]
    starts = [positions[min(count - base, len(positions) - 1)] for _, _, count in marks] + [len(events)]
    starts[0] = 0
    return tuple(Phase(name, step, starts[i], starts[i + 1]) for i, (name, step, _) in enumerate(marks))


def _with_segment(actions: Sequence[int], allocation: int) -> int:
    """Where an allocation begins: at its segment, if one was taken for it."""
    taken = allocation > 0 and actions[allocation - 1] == Action.SEGMENT_ALLOC
    return allocation - 1 if taken else allocation


def _statistics() -> dict[str, int]:
    """torch's own figures, to hold a prediction against, now and at their peak."""
    stats = torch.cuda.memory_stats()
    return {
        f"{kind}.{when}": int(stats[f"{kind}_bytes.all.{when}"])
        for kind in ("requested", "allocated", "active", "reserved")
        for when in ("current", "peak")
    }
