"""Streams without time: what is known to be done when.

Work on one stream is done in order; an event says how far a stream has come; streams and the host wait for events
(CUDA C++ Programming Guide, "Streams", "Events"). Nothing here takes time, so of two things that no wait orders it is
not known which is done first. What is known: when the host has waited for an event, all that came before it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

Stamp = Mapping[int, int]
"""Stream → how many of its marks are done, when what bears the stamp is."""

Held = TypeVar("Held")


class Order:
    """Marks on streams, and which of them the host knows to be done. Streams are numbers."""

    def __init__(self) -> None:
        self._marks: dict[int, int] = {}
        self._awaited: dict[int, dict[int, int]] = {}
        self._host: dict[int, int] = {}

    def record(self, stream: int) -> Stamp:
        """An event on a stream: it happens after all that the stream was given, and after what that waited for."""
        number = self._marks[stream] = self._marks.get(stream, 0) + 1
        return {**self._awaited.get(stream, {}), stream: number}

    def wait(self, stream: int, stamp: Stamp) -> None:
        """What the stream is given from now on comes after the event."""
        _merge(self._awaited.setdefault(stream, {}), stamp)

    def synchronize(self, stamp: Stamp) -> None:
        """The host has waited for the event."""
        _merge(self._host, stamp)

    def synchronize_stream(self, stream: int) -> None:
        """The host has waited for all that the stream was given."""
        self.synchronize(self.record(stream))

    def synchronize_device(self) -> None:
        """The host has waited for everything."""
        _merge(self._host, self._marks)

    def is_done(self, stream: int, mark: int) -> bool:
        """Whether the host knows that the stream has passed its mark of that number."""
        return self._host.get(stream, 0) >= mark


def _merge(into: dict[int, int], stamp: Stamp) -> None:
    for stream, mark in stamp.items():
        if into.get(stream, 0) < mark:
            into[stream] = mark


class Awaited(Generic[Held]):
    """What is held until some streams have passed the moment at which it was let go.

    As `insert_events` and `process_events` of c10/cuda/CUDACachingAllocator.cpp: an event on each of the streams; those
    of one stream are asked in order, and the first that is not done ends the asking.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._queues: dict[int, deque[tuple[int, Held]]] = {}
        self._left: dict[Held, int] = {}
        """Events of each that are not done."""

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, held: Held, streams: Iterable[int]) -> None:
        """Let go now, and used by these streams."""
        for stream in sorted(streams):
            mark = self._order.record(stream)[stream]
            self._queues.setdefault(stream, deque()).append((mark, held))
            self._left[held] = self._left.get(held, 0) + 1

    def done(self) -> list[Held]:
        """Those that are certainly done with, and are held no longer."""
        found = []
        for stream, queue in self._queues.items():
            while queue and (queue[0][1] not in self._left or self._order.is_done(stream, queue[0][0])):
                _, held = queue.popleft()
                if held in self._left:
                    self._left[held] -= 1
                    if not self._left[held]:
                        del self._left[held]
                        found.append(held)
        return found

    def drop(self, held: Held) -> None:
        """Somebody else waited for it."""
        self._left.pop(held, None)
