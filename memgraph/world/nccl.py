"""What ProcessGroupNCCL does with tensors beside communicating: it keeps them, and uses them on streams of its own.

Source: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, torch 2.8 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d_cpp

from memgraph.virtual.patches import put, replaced
from memgraph.world.works import work_of

Waited = Callable[[], None]


_LEFT = ("allreduce_",)
"""DDP's reducer takes the future of these, and never waits for their work (`run_allreduce_hook`, reducer.cpp). What
else C++ sends it waits for: `broadcast_coalesced`, `verify_params_across_processes`."""


_ALL = -1


class Recording(Protocol):
    """Whoever writes down which streams use a tensor."""

    def record_stream(self, tensor: Tensor, stream: torch.Stream) -> None:
        """As `Tensor.record_stream`."""

    @property
    def ledger(self) -> Ledger:
        """Where events are."""

    @property
    def storages(self) -> Storages:
        """Which buffers they are."""

    @property
    def stage(self) -> Stage:
        """Which step it is."""


class Stage(Protocol):
    """What is needed of the recorder's."""

    step: int


class Ledger(Protocol):
    """What is needed of the recorder's."""

    def may_be_held(self, buffer: int) -> None:
        """If it is dead now: something else than the program may have held it until now."""


class Storages(Protocol):
    """What is needed of the recorder's."""

    def buffer_at(self, storage: int) -> int | None:
        """The buffer of a storage, by its `_cdata`."""


class Shelf:
    """Tensors that the work of an asynchronous collective keeps (`stashed_for_allocator_safety_`) until somebody waits
    for it, or it is gone.

    Args:
        left: told of them if nobody has waited by then. Whoever waits in C++ is not seen: None for what all wait for
            there.
    """

    def __init__(self, tensors: Sequence[Tensor], left: Callable[[Sequence[Tensor]], None] | None) -> None:
        self._tensors = tensors
        self._left = left

    def let_go(self) -> None:
        """Somebody waits."""
        self._tensors = ()

    def __del__(self) -> None:
        if self._tensors and self._left is not None:
            self._left(self._tensors)


class Nccl:
    """The groups of one rank.

    Args:
        recorder: told which streams use a tensor.
    """

    def __init__(self, recorder: Recording) -> None:
        self._recorder = recorder
        self._left: dict[str, dict[int, int]] = defaultdict(dict)
        """Buffers of works that nobody waited for, and the step that these were given in. A watchdog that looks every
        100 ms takes them over, and they go with the group's next collective after that (`shelvesToUnstash_`, which
        `workEnqueue` clears). Where a backward takes longer, that is as good as at once; where it does not, they stay
        through the optimizer's step, until the first collective of the next."""
        self._streams: dict[tuple[str, int], torch.cuda.Stream] = {}
        self._batch: list[Waited] | None = None
        """What waiting does for each operation of the batch that is being made."""

    def shelf(self, name: str, group: Any, tensors: Sequence[Tensor]) -> Shelf:
        """For what an asynchronous collective reads and writes."""
        leave = functools.partial(self._leave, group.group_name, self._recorder.stage.step)
        return Shelf(tensors, leave if name in _LEFT else None)

    def _leave(self, name: str, step: int, tensors: Sequence[Tensor]) -> None:
        at = self._recorder.storages.buffer_at
        found = (at(tensor.untyped_storage()._cdata) for tensor in tensors)
        self._left[name].update((buffer, step) for buffer in found if buffer is not None)

    def enqueued(self, group: Any, waited: Waited | None) -> None:
        """A group was given a collective or a message.

        Args:
            waited: what waiting for it does.
        """
        self._let_go(group.group_name, before=self._recorder.stage.step)
        if self._batch is not None and waited is not None:
            self._batch.append(waited)

    def over(self) -> None:
        """The run ends: what is left was there until now."""
        for name in self._left:
            self._let_go(name, before=self._recorder.stage.step + 1)

    def _let_go(self, name: str, before: int) -> None:
        """Of a group, what was left in earlier steps."""
        left = self._left[name]
        for buffer in [buffer for buffer, step in left.items() if step < before]:
            del left[buffer]
            self._recorder.ledger.may_be_held(buffer)

    def sent(self, group: Any, peer: int, tensors: Sequence[Tensor]) -> Waited:
        """A message runs on a stream of the two ranks', or of the group's in a batch, which uses its tensors
        (`pointToPoint`, `recordStream`).

        Returns:
            What waiting for it does: the stream that is current then waits.
        """
        stream = self._stream(group, peer if self._batch is None else _ALL)
        stream.wait_stream(torch.cuda.current_stream())
        for tensor in tensors:
            self._recorder.record_stream(tensor, stream)
        done = stream.record_event()
        return lambda: torch.cuda.current_stream().wait_event(done)

    def _stream(self, group: Any, peer: int) -> torch.cuda.Stream:
        pair = (group.group_name, peer)
        if pair not in self._streams:
            self._streams[pair] = torch.cuda.Stream()
        return self._streams[pair]

    def begin(self) -> None:
        """What follows is one work (`startCoalescing`)."""
        self._batch = []

    def end(self) -> Waited:
        """The batch is complete (`endCoalescing`); what waiting for it does."""
        batch, self._batch = self._batch or [], None

        def waited() -> None:
            for each in batch:
                each()
            batch.clear()

        return waited


@contextlib.contextmanager
def batches_are_one_work(nccl: Nccl) -> Iterator[None]:
    """While open, the operations of a batch (`batch_isend_irecv`, `_coalescing_manager`) are sent together, as NCCL
    does and torch's fake group does not."""
    start, end = c10d_cpp.ProcessGroup._start_coalescing, c10d_cpp.ProcessGroup._end_coalescing

    def starting(group: Any, *args: Any) -> None:
        start(group, *args)
        nccl.begin()

    def ending(group: Any, *args: Any) -> Any:
        end(group, *args)
        return work_of((), nccl.end())

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(c10d_cpp.ProcessGroup, "_start_coalescing", starting))
        stack.enter_context(replaced(c10d_cpp.ProcessGroup, "_end_coalescing", ending))
        stack.enter_context(put(c10d_cpp.FakeProcessGroup, "supports_coalescing", True))
        yield
