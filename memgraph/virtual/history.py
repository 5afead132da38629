"""`torch.cuda.memory._record_memory_history` and `_snapshot` on the virtual GPU, in torch's own format;
`_dump_snapshot` is torch's, which writes what `_snapshot` answers.

Source: torch/cuda/memory.py (`_snapshot`), torch/csrc/cuda/memory_snapshot.cpp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from memgraph.trace import Action
from memgraph.virtual.statistics import Log

Frames = list[dict[str, Any]]
FramesOf = Callable[[int], Frames]
"""The call stack of an op, by its number; the innermost first."""

_NAMES = {
    Action.ALLOC: ("alloc",), Action.FREE: ("free_requested", "free_completed"),
    Action.FREE_REQUESTED: ("free_requested",), Action.FREE_COMPLETED: ("free_completed",),
    Action.SEGMENT_ALLOC: ("segment_alloc",), Action.SEGMENT_FREE: ("segment_free",), Action.OUT_OF_MEMORY: ("oom",),
}  # fmt: skip


class Book(Log, Protocol):
    """What is read of a ledger."""

    @property
    def ops(self) -> Any: ...

    @property
    def streams(self) -> Mapping[int, int]: ...

    def live(self) -> list[int]: ...

    def address(self, buffer: int) -> int: ...

    def __len__(self) -> int: ...


class History:
    """What a script has recorded.

    Args:
        book: the run's ledger.
        frames_of: where each op comes from.
        segments: as `torch.cuda.memory_snapshot` tells them.
    """

    def __init__(self, book: Book, frames_of: FramesOf, segments: Callable[[], list[dict[str, Any]]]) -> None:
        self._book = book
        self._frames_of = frames_of
        self._segments = segments
        self._enabled: str | None = None
        self._start = 0
        self._most = sys.maxsize

    def record(self, enabled: Any = "all", context: Any = "all", *args: Any, **kwargs: Any) -> None:
        """As `_record_memory_history`: by its newer arguments, and by those of its legacy form, which began with a
        bool.

        Raises:
            ValueError: it is none of torch's.
        """
        if enabled not in (None, "all", "state", True, False):
            raise ValueError(f"expected state to be 'state', 'all', or None, but got {enabled!r}"[:200])
        legacy = isinstance(enabled, bool)
        most = kwargs.get("trace_alloc_max_entries", 1) if legacy else kwargs.get("max_entries", sys.maxsize)
        self._most = args[1] if not legacy and len(args) > 1 else most
        if self._enabled is None or not enabled or kwargs.get("clear_history"):
            self._start = len(self._book)
        self._enabled = ("all" if enabled is True else enabled) or None

    def snapshot(self, *_: Any, **__: Any) -> dict[str, Any]:
        """As `_snapshot`: the segments now, and what was recorded."""
        events = list(self._events())[-self._most :] if self._enabled == "all" else []
        return {
            "segments": self._with_frames(self._segments()),
            "device_traces": [events],
            "allocator_settings": self._book.allocator.config.told(),
            "external_annotations": [],
        }

    def _events(self) -> Iterator[dict[str, Any]]:
        sizes, streams = self._book.sizes, self._book.streams
        for time, (action, buffer, op, address, size) in enumerate(self._book.rows(self._start), self._start):
            about = {
                "addr": address, "size": sizes[buffer] if buffer >= 0 else size, "stream": streams.get(buffer, 0),
                "time_us": time, "compile_context": "N/A", "user_metadata": "", "frames": self._frames_of(op),
            }  # fmt: skip
            yield from ({"action": name, **about} for name in _NAMES[Action(action)])

    def _with_frames(self, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each block that is in use knows its stack, if it was allocated since the recording began."""
        if self._enabled is None:
            return segments
        made = {buffer for action, buffer, *_ in self._book.rows(self._start) if action == Action.ALLOC}
        ops = {self._book.address(buffer): self._book.ops[buffer] for buffer in self._book.live() if buffer in made}
        for segment in segments:
            for block in segment["blocks"]:
                if block["address"] in ops:
                    block["frames"] = self._frames_of(ops[block["address"]])
        return segments
