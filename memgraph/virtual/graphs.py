"""CUDA graphs and `torch.cuda.MemPool` on the virtual GPU: what they are made of is memory in pools of its own.

A capture runs its code once; what that allocates comes out of the graph's private pool, which keeps its segments as
long as the graph lives. A replay takes nothing. `torch.cuda.graph` and `make_graphed_callables` are torch's own, over
the classes below (ATen/cuda/CUDAGraph.cpp, ATen/cuda/MemPool.cpp; torch 2.11 to 2.15).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from memgraph.errors import UsageError
from memgraph.gpu.allocator.caching import Allocator
from memgraph.trace import Role
from memgraph.virtual.patches import put, replaced
from memgraph.virtual.streams import VirtualStream

Handle = tuple[int, int]
_STATE = 8
"""Bytes of a generator's seed, and of its offset, that captured kernels read (`CUDAGeneratorState::register_graph`)."""


class Memory(Protocol):
    """Who serves requests."""

    allocator: Allocator
    capturing: bool
    current_stream: Callable[[], int]

    def allocate(self, size: int, role: Role = ...) -> int: ...

    def free(self, buffer: int) -> None: ...

    def empty_cache(self, only: int | None = ...) -> None: ...


class Graphs:
    """Those of one virtual GPU, and the numbers of their pools."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.pools = memory.allocator.private
        self._numbers: dict[Handle, int] = {}
        self._users, self._own = itertools.count(1), itertools.count(1)
        self._registered = 0
        self._state: list[int] = []

    def handle(self, users: bool) -> Handle:
        """A new pool's (`MemPool::graph_pool_handle`)."""
        return (0, next(self._users)) if users else (next(self._own), 0)

    def number(self, handle: Handle) -> int:
        """The pool's number in the allocator."""
        return self._numbers.setdefault(tuple(handle), len(self._numbers) + 1)  # type: ignore[arg-type]

    def register(self) -> None:
        """A graph will read the generator's state, which is made for the first."""
        if not self._registered:
            self._state = [self.memory.allocate(_STATE, Role.LIBRARY) for _ in range(2)]
        self._registered += 1

    def unregister(self) -> None:
        """It is gone; with the last one the state goes."""
        self._registered -= 1
        if not self._registered:
            for buffer in self._state:
                self.memory.free(buffer)


_open: Graphs | None = None


def _graphs() -> Graphs:
    if _open is None:
        raise UsageError("the virtual GPU of this graph or pool is closed")
    return _open


@contextlib.contextmanager
def graphs_are_captured(memory: Memory) -> Iterator[None]:
    """While open, graphs can be captured and replayed, and pools used."""
    global _open
    names = torch.cuda.graphs, torch.cuda.memory
    answers: dict[str, Any] = {
        "_cuda_beginAllocateCurrentThreadToPool": _begin,
        "_cuda_beginAllocateToPool": _begin,
        "_cuda_endAllocateToPool": lambda _device, handle: _graphs().pools.end(_graphs().number(handle)),
        "_cuda_releasePool": lambda _device, handle: _graphs().pools.release(_graphs().number(handle)),
    }
    with contextlib.ExitStack() as stack:
        for owner in (torch.cuda, names[0]):
            stack.enter_context(put(owner, "CUDAGraph", VirtualGraph))
            stack.enter_context(put(owner, "graph_pool_handle", lambda: _graphs().handle(True)))
            stack.enter_context(put(owner, "is_current_stream_capturing", _is_capturing))
        for owner in (torch.cuda, names[1]):
            stack.enter_context(put(owner, "MemPool", VirtualPool))
        for name, answer in answers.items():
            stack.enter_context(put(names[1], name, answer))
        stack.enter_context(put(torch._C, "_host_emptyCache", lambda: None))
        ours = _current_stream(torch.accelerator.current_stream)  # optimizers ask it whether it is captured
        stack.enter_context(replaced(torch.accelerator, "current_stream", ours))
        stack.enter_context(replaced(torch.cuda.graph, "default_capture_stream", None))
        _open = Graphs(memory)
        try:
            yield
        finally:
            _open = None


def _is_capturing() -> bool:
    memory = _graphs().memory
    return memory.capturing and memory.current_stream() != 0


def _current_stream(original: Callable[..., torch.Stream]) -> Callable[..., torch.Stream]:
    def current_stream(device: Any = None, /) -> torch.Stream:
        stream = original(device)
        return VirtualStream(stream_id=stream.stream_id, device_index=stream.device_index)

    return current_stream


def _begin(_device: int, handle: Handle) -> None:
    """What this thread asks for comes out of the pool."""
    thread = threading.get_ident()
    _graphs().pools.begin(_graphs().number(handle), lambda _stream: threading.get_ident() == thread)


def not_permitted() -> RuntimeError:
    """What CUDA says where the host would wait for a stream that is being captured."""
    return torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")


class VirtualGraph:
    """As `torch.cuda.CUDAGraph`."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._graphs = _graphs()
        self._pool: Handle | None = None
        self._captured = self._registered = False

    def register_generator_state(self, _generator: Any) -> None:
        """A generator besides the default one."""

    def capture_begin(self, pool: Handle | None = None, capture_error_mode: str = "global", **_: Any) -> None:
        """What follows on the current stream becomes the graph.

        Raises:
            RuntimeError: it has been captured, or the stream is the default one, in torch's words.
        """
        memory = self._graphs.memory
        if self._pool is not None:
            raise RuntimeError(
                "This CUDAGraph instance already owns a captured graph. To capture a new graph, create a new instance."
            )
        if memory.current_stream() == 0:
            raise RuntimeError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture, it's ok to replay "
                "them on the default stream.)"
            )
        self._graphs.register()
        self._registered = True
        self._pool = tuple(pool) if pool is not None else self._graphs.handle(False)  # type: ignore[assignment]
        self._graphs.pools.begin(self._number, lambda _stream: memory.capturing)
        memory.capturing = True

    def capture_end(self) -> None:
        """The graph is whole."""
        self._graphs.memory.capturing = False
        self._graphs.pools.end(self._number)
        self._captured = True

    def instantiate(self) -> None:
        """It is ready to run."""

    def replay(self) -> None:
        """Run it, which takes nothing.

        Raises:
            RuntimeError: there is none, in torch's words.
        """
        if not self._captured:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")

    def reset(self) -> None:
        """Let the graph go. Its pool's segments can be given back then, when nothing of it lives."""
        if self._pool is not None:
            self._graphs.pools.release(self._number)
            self._pool, self._captured = None, False

    def pool(self) -> Handle:
        """Its memory pool, for other graphs to share.

        Raises:
            RuntimeError: there is none, in torch's words.
        """
        if self._pool is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self._pool

    def enable_debug_mode(self) -> None:
        """There is nothing to see."""

    def debug_dump(self, debug_path: str) -> None:
        """Nothing is written."""

    @property
    def _number(self) -> int:
        assert self._pool is not None
        return self._graphs.number(self._pool)

    def __del__(self) -> None:
        if "_registered" in vars(self):
            self.reset()
            if self._registered:
                self._graphs.unregister()


class VirtualPool:
    """As `torch.cuda.MemPool`."""

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        self._graphs = _graphs()
        self.id = self._graphs.handle(True)
        self.allocator = allocator
        self._graphs.pools.use(self._graphs.number(self.id))

    @property
    def device(self) -> int:
        """The device it is of."""
        return 0

    def use_count(self) -> int:
        """How many use it."""
        return self._graphs.pools.users(self._graphs.number(self.id))

    def snapshot(self, include_traces: bool = True) -> Any:
        """Its segments."""
        number = self._graphs.number(self.id)
        own = {s.address for s in self._graphs.memory.allocator.segments.values() if s.pool == number}
        return [segment for segment in torch.cuda.memory_snapshot() if segment["address"] in own]

    def __del__(self) -> None:
        if "allocator" in vars(self):
            number = self._graphs.number(self.id)
            self._graphs.pools.release(number)
            self._graphs.memory.empty_cache(number)
