"""Which stream is current. It is kept by thread in the shim's device guard, where autograd's engine sees the same as
Python; on a machine with a GPU in torch's own guard."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch

from memgraph.gpu.order import Order
from memgraph.virtual import shim
from memgraph.virtual.patches import put
from memgraph.virtual.streams import CUDA, Streams, opened


def current_number() -> Callable[[], int]:
    """Asks for the number of the stream that is current in this thread."""
    if shim.is_loaded():
        return shim.current_stream()
    return lambda: int(torch.accelerator.current_stream().stream_id)


def _set(stream_id: int, device_index: int = 0, device_type: int = CUDA) -> None:
    if shim.is_loaded():
        shim.load().memgraph_set_stream(stream_id)
    else:
        torch.accelerator.set_stream(
            torch.Stream(stream_id=stream_id, device_index=device_index, device_type=device_type)
        )


@contextlib.contextmanager
def streams_exist(order: Order, use: Callable[[int, int], None], assume: Callable[[str], None]) -> Iterator[None]:
    """While open, streams are told apart, in Python and in C++. torch's own `current_stream`, `set_stream` and `stream`
    (torch/cuda/__init__.py) stand on four functions, of which a CPU-only build has none.

    Args:
        order: where it is kept what comes after what.
        use: told of a storage, by its `_cdata`, that is used on a stream.
        assume: told of what is taken for granted.
    """
    current = current_number()
    streams = Streams(order, current, assume)
    answers: dict[str, Callable[..., Any]] = {
        "_cuda_getCurrentStream": lambda device: (current(), device, CUDA),
        "_cuda_getCurrentRawStream": lambda _device: current(),
        "_cuda_getDefaultStream": lambda device: (0, device, CUDA),
        "_cuda_getStreamFromExternal": lambda pointer, device: (pointer, device, CUDA),
        "_cuda_setStream": _set,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(put(torch._C, name, answer))
        stack.enter_context(_heard(streams, use))
        stack.callback(_set, current())
        stack.enter_context(opened(streams))
        yield


_NUMBER = ctypes.c_int64


@contextlib.contextmanager
def _heard(streams: Streams, use: Callable[[int, int], None]) -> Iterator[None]:
    """The shim's guard tells of what C++ does with streams."""
    if not shim.is_loaded():
        yield
        return
    one, two = ctypes.CFUNCTYPE(_NUMBER, _NUMBER), ctypes.CFUNCTYPE(_NUMBER, _NUMBER, _NUMBER)
    nothing_of_one, nothing_of_two = (ctypes.CFUNCTYPE(None, *[_NUMBER] * count) for count in (1, 2))
    listeners = (
        one(streams.create), two(streams.record), nothing_of_two(streams.wait), nothing_of_two(streams.synchronize),
        nothing_of_one(streams.forget), nothing_of_two(use),
    )  # fmt: skip
    library = shim.load()
    library.memgraph_listen(*listeners)
    try:
        yield
    finally:
        library.memgraph_listen(*[None] * len(listeners))
