"""Streams and events of the virtual GPU. They cost nothing and take no time; what they order is kept
(`gpu/order.py`), for the allocator asks when other streams are done with a block.

Numbers, pools and priorities are those of c10/cuda/CUDAStream.cpp, torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch.cuda._utils import _get_device_index

from memgraph.errors import UsageError
from memgraph.gpu.order import Order, Stamp

_IN_A_POOL = 32
"""`kStreamsPerPool`."""
_PRIORITIES = 4
"""0, the lowest, to -3: the most that torch is built for (`max_compile_time_stream_priorities`). Cards have more
(`cudaDeviceGetStreamPriorityRange`), so these are what it gives."""
CUDA = 1
"""`c10::DeviceType::CUDA`."""


class Streams:
    """Those of one virtual GPU: pools that go round, and the order of what is known to be done.

    Args:
        order: where it is kept what comes after what.
        current: the number of the stream that is current in this thread.
        assume: told of what is taken for granted.
    """

    def __init__(self, order: Order, current: Callable[[], int], assume: Callable[[str], None]) -> None:
        self.order = order
        self.current = current
        self.assume = assume
        self._turns = [0] * _PRIORITIES
        self._events: dict[int, Stamp] = {}
        self._made = 0

    def create(self, priority: int) -> int:
        """The next stream of a priority's pool: its index, its priority and a one, in one number (`makeStreamId`)."""
        place = min(-priority, _PRIORITIES - 1)
        turn, self._turns[place] = self._turns[place], self._turns[place] + 1
        return turn % _IN_A_POOL << 5 | place + 1 << 1 | 1

    # Events of C++, by their numbers; 0 is none.

    def record(self, event: int, stream: int) -> int:
        """An event is recorded, a new one if it is 0; returns its number."""
        if not event:
            self._made += 1
            event = self._made
        self._events[event] = self.order.record(stream)
        return event

    def wait(self, event: int, stream: int) -> None:
        """A stream waits for an event."""
        self.order.wait(stream, self._events.get(event, {}))

    def synchronize(self, event: int, stream: int) -> None:
        """The host waits: for an event, a stream (event 0), or the device (-1)."""
        if event < 0:
            self.order.synchronize_device()
        elif event:
            self.order.synchronize(self._events.get(event, {}))
        else:
            self.order.synchronize_stream(stream)

    def forget(self, event: int) -> None:
        """An event is destroyed."""
        self._events.pop(event, None)


_open: Streams | None = None


def _streams() -> Streams:
    if _open is None:
        raise UsageError("the virtual GPU of this stream or event is closed")
    return _open


class VirtualStream(torch.Stream):
    """As `torch.cuda.Stream`."""

    def __new__(
        cls, device: Any = None, priority: int = 0, *, stream_id: int | None = None, stream_ptr: int = 0,
        device_index: int | None = None, **_: Any,
    ) -> Self:  # fmt: skip
        if priority > 0:
            raise RuntimeError(f"Expected cuda stream priority to be less than or equal to 0, got {priority}")
        if stream_id is None:
            stream_id = stream_ptr or _streams().create(priority)
        if device_index is None:
            device_index = _get_device_index(device, optional=True)
        return super().__new__(cls, stream_id=stream_id, device_index=device_index, device_type=CUDA)

    @property
    def cuda_stream(self) -> int:
        """What is a pointer on a real GPU: the number."""
        return self.stream_id

    @property
    def native_handle(self) -> int:
        """The same."""
        return self.stream_id

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_stream)

    @property
    def priority(self) -> int:
        """That of its pool; 0 for the default stream and those of others."""
        return 1 - (self.stream_id >> 1 & 15) if self.stream_id & 1 else 0

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """The least and the greatest (`cudaDeviceGetStreamPriorityRange`, as far as torch uses it)."""
        return 0, 1 - _PRIORITIES

    def query(self) -> bool:
        """All work is done, and the host knows."""
        self.synchronize()
        return True

    def is_capturing(self) -> bool:
        """Whether what it is given becomes part of a CUDA graph."""
        return bool(self.stream_id) and torch.cuda.is_current_stream_capturing()

    def synchronize(self) -> None:
        """The host waits for all that it was given."""
        _streams().order.synchronize_stream(self.stream_id)

    def record_event(self, event: Any = None) -> Any:
        """An event, a new one if none is given, after all that it was given."""
        event = VirtualEvent() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        """What it is given from now on comes after the event."""
        event.wait(self)

    def wait_stream(self, stream: Any) -> None:
        """What it is given from now on comes after what the other was given."""
        order = _streams().order
        order.wait(self.stream_id, order.record(stream.stream_id))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class VirtualExternalStream(VirtualStream):
    """As `torch.cuda.ExternalStream`: a stream that somebody else made, by its pointer."""

    def __new__(cls, stream_ptr: int, device: Any = None, **_: Any) -> Self:
        return super().__new__(cls, device, stream_ptr=stream_ptr)


class VirtualEvent(torch.Event):
    """As `torch.cuda.Event`. It has happened as soon as somebody asks, who then knows; how long after another is not
    known."""

    stamp: Stamp | None
    """None before it is recorded."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        event = super().__new__(cls, "cuda")
        event.stamp = None
        return event

    def record(self, stream: Any = None) -> None:
        """After all that a stream, by default the current one, was given."""
        self.stamp = _streams().order.record(_number(stream))

    def wait(self, stream: Any = None) -> None:
        """What a stream is given from now on comes after it."""
        if self.stamp is not None:
            _streams().order.wait(_number(stream), self.stamp)

    def query(self) -> bool:
        """It has happened, and the host knows."""
        self.synchronize()
        return True

    def synchronize(self) -> None:
        """The host waits for it."""
        if self.stamp is not None:
            _streams().order.synchronize(self.stamp)

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds: 1 between any two."""
        if end_event is self:
            return 0.0
        _streams().assume("the time between two events is taken to be 1 ms")
        return 1.0

    @property
    def cuda_event(self) -> int:
        """What is a pointer on a real GPU."""
        return id(self)

    def __repr__(self) -> str:
        return "<torch.cuda.Event uninitialized>" if self.stamp is None else f"<torch.cuda.Event {self.cuda_event:#x}>"


def _number(stream: Any) -> int:
    return int(stream.stream_id) if stream is not None else _streams().current()


def synchronize_device() -> None:
    """As `torch.cuda.synchronize`."""
    _streams().order.synchronize_device()


@contextlib.contextmanager
def opened(streams: Streams) -> Iterator[None]:
    """These are the streams of the virtual GPU that is open."""
    global _open
    _open = streams
    try:
        yield
    finally:
        _open = None
