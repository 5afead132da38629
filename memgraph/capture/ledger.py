"""Writes down what the allocator is asked, and asks the model of it. Knows no torch.

The order of calls is the clock. A buffer can die at any moment, also while the ledger is at work: a garbage collection
inside a Python statement runs weak references' callbacks, and another thread may go on between any two. Such deaths
wait until the statement in hand is done.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator

from memgraph.errors import InvariantError
from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.order import Awaited, Order
from memgraph.trace import Action, Category, Events, Phase, Role

Refusal = Callable[[OutOfMemory], None]
"""Told of an out-of-memory; may raise. If it returns, the card is taken to be as large as it must be, and the run goes
on."""


_AT_WORK = threading.Lock()
"""Held while a ledger and its allocator change."""
# A child that is forked while another thread holds it would wait for ever.
os.register_at_fork(before=_AT_WORK.acquire, after_in_parent=_AT_WORK.release, after_in_child=_AT_WORK.release)


class Ledger:
    """One run's allocations in order.

    Args:
        allocator: the model of the caching allocator that serves them.
        refuse: called when a request cannot be served.
    """

    def __init__(self, allocator: Allocator, refuse: Refusal | None = None) -> None:
        self.allocator = allocator
        allocator.on_segment = self._segment
        allocator.on_return = self._waited_for
        self.order = Order()
        self.current_stream: Callable[[], int] = _default_stream
        self.streams: dict[int, int] = {}
        """Buffers that are not of the default stream and everybody's pool, and the number of theirs: 1, 2, … in order
        of first use."""
        self.capturing = False
        """Whether a CUDA graph is being captured."""
        self._numbers = {(0, 0): 0}
        self._uses: dict[int, set[int]] = {}
        self._awaited: Awaited[Block] = Awaited(self.order)
        self.waiting: dict[Block, int] = {}
        """Blocks that wait for other streams: only while there are any is it of interest what the host waits for."""
        self.waited = False
        """Whether a block ever waited for other streams."""
        self.late: list[tuple[int, int]] = []
        """As `Trace.late`."""
        self.op = -1
        self.sizes: array[int] = array("q")
        self.ops: array[int] = array("q")
        self.roles: list[Role] = []
        self.categories: dict[int, Category] = {}
        self.names: dict[int, str] = {}
        self.phases: list[tuple[str, int, int]] = []
        self.overflowed = False
        self.refuse = refuse
        self._columns = tuple(array(code) for code in "bqqqq")
        self._add = tuple(column.append for column in self._columns)
        self._blocks: dict[int, Block] = {}
        self._dead: list[int] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._columns[0])

    def allocate(self, size: int, role: Role = Role.OUTPUT) -> int:
        """Allocate `size` bytes for the current op; returns the buffer's index."""
        with _AT_WORK:
            stream = self.current_stream()
            if self.waiting:
                self._return()
            try:
                block = self.allocator.malloc(size, stream)
            except OutOfMemory as error:
                block = self._refused(error, size, stream)
            buffer = self._note(block, size, role, stream)
        if self._dead:
            self._bury()
        return buffer

    def may_allocate(self, size: int, role: Role) -> int | None:
        """As `allocate`, for whoever can do without: None where the allocator says no."""
        with _AT_WORK:
            stream = self.current_stream()
            if self.waiting:
                self._return()
            try:
                block = self.allocator.malloc(size, stream)
            except OutOfMemory:
                return None
            buffer = self._note(block, size, role, stream)
        self._bury()
        return buffer

    def try_out(self, sizes: Iterable[int]) -> None:
        """Kernels that take so much are tried: the most that there is room for is taken, half of it where the allocator
        says no, and with it all that is cached is given back (`generate_and_filter_plans`, `run_single_conv` of
        aten/src/ATen/native/cudnn/Conv_v8.cpp)."""
        size, buffer = max((size for size in sizes if size <= self.allocator.room), default=0), None
        while size and buffer is None:
            buffer = self.may_allocate(size, Role.TEMPORARY)
            size //= 2
        if buffer is not None:
            self.free(buffer)
        self.empty_cache()

    def free(self, buffer: int) -> None:
        """The buffer died."""
        if self._closed:
            return
        if self._dead or not _AT_WORK.acquire(blocking=False):
            self._dead.append(buffer)
        else:
            try:
                self._free(buffer)
            finally:
                _AT_WORK.release()
        if self._dead:
            self._bury()

    def record_stream(self, buffer: int, stream: int) -> None:
        """As `Tensor.record_stream`: a stream besides the buffer's own uses it."""
        block = self._blocks.get(buffer)
        if block is not None and block.segment.stream != stream:
            self._uses.setdefault(buffer, set()).add(stream)

    def may_be_held(self, buffer: int) -> None:
        """If it is dead now: something else than the program may have held it until now."""
        if buffer not in self._blocks:
            self.late.append((buffer, len(self)))

    def live(self) -> list[int]:
        """The buffers that are alive."""
        return list(self._blocks)

    def objects(self) -> int:
        """How many of Python's it is made of, as far as that changes: a free block has a key besides."""
        return len(self._blocks) + len(self.waiting) + 2 * self.allocator.idle + len(self.phases)

    @property
    def live_bytes(self) -> int:
        """What they asked for."""
        return sum(map(self.sizes.__getitem__, self._blocks))

    def address(self, buffer: int) -> int:
        """Where the block of a live buffer begins."""
        return self._blocks[buffer].address

    def inherit(self, buffer: int, before: int) -> None:
        """What is known of one buffer holds for another, which takes its place."""
        if before in self.categories:
            self.categories[buffer] = self.categories[before]
        if before in self.names:
            self.names[buffer] = self.names[before]

    def check(self) -> None:
        """What the allocator holds is the sum of what lives, and of what waits for other streams.

        Raises:
            InvariantError: it is not.
        """
        live = self.live_bytes + sum(self.sizes[buffer] for buffer in self.waiting.values())
        if live != self.allocator.requested and not self._dead:
            raise InvariantError(
                f"{live:,} bytes live, and the allocator holds {self.allocator.requested:,}: this is an error of "
                "memgraph's; please report the script that shows it"
            )

    def empty_cache(self, only: int | None = None) -> None:
        """As `torch.cuda.empty_cache`, or of one private pool."""
        with _AT_WORK:
            self.allocator.empty_cache(only)
        self._bury()

    def close(self) -> None:
        """What dies from now on dies after the run."""
        self._closed = True

    def enter(self, name: str, step: int) -> None:
        """From here on it is phase `name` of step `step`."""
        if not self.phases or self.phases[-1][:2] != (name, step):
            self.phases.append((name, step, len(self)))

    def rows(self, start: int = 0) -> Iterator[tuple[int, int, int, int, int]]:
        """The events from number `start` on: action, buffer (-1 for none), op, address, bytes."""
        return zip(*(column[start:] for column in self._columns), strict=True)

    def finished_phases(self) -> tuple[Phase, ...]:
        """The phases so far, each up to the start of the next."""
        stops = [start for _, _, start in self.phases[1:]] + [len(self)]
        return tuple(
            Phase(name, step, start, stop) for (name, step, start), stop in zip(self.phases, stops, strict=True)
        )

    def events(self) -> Events:
        """The events so far."""
        return Events(columns=[column[:] for column in self._columns])

    def _note(self, block: Block, size: int, role: Role, stream: int) -> int:
        buffer, op = len(self.sizes), self.op
        self.sizes.append(size)
        self.ops.append(op)
        self.roles.append(role)
        self._blocks[buffer] = block
        pool = block.segment.pool
        if stream or pool:  # what is in a private pool stays there, as what is of a stream does
            self.streams[buffer] = self._numbers.setdefault((stream, pool), len(self._numbers))
        add_action, add_buffer, add_op, add_address, add_size = self._add  # as `_write`, without a call
        add_action(_ALLOC)
        add_buffer(buffer)
        add_op(op)
        add_address(block.address)
        add_size(block.size)
        return buffer

    def _refused(self, error: OutOfMemory, size: int, stream: int) -> Block:
        self._write(Action.OUT_OF_MEMORY, -1, 0, size)
        self.overflowed = True
        if self.refuse is not None:
            self.refuse(error)
        self.allocator.capacity = 2**62
        self.allocator.set_limit(None)
        return self.allocator.malloc(size, stream)

    def _bury(self) -> None:
        """Free what died, unless the ledger is at work: whoever is at it does so afterwards."""
        while self._dead and not _AT_WORK.locked():
            with _AT_WORK:
                while self._dead:
                    self._free(self._dead.pop(0))

    def _free(self, buffer: int) -> None:
        block = self._blocks.pop(buffer)
        if self._uses and buffer in self._uses:
            self._wait(buffer, block)
            return
        self._write(_FREE, buffer, block.address, block.size)
        self.allocator.free(block)

    def _wait(self, buffer: int, block: Block) -> None:
        """It died, and other streams may still be at work on it."""
        self._write(Action.FREE_REQUESTED, buffer, block.address, block.size)
        self._awaited.add(block, self._uses.pop(buffer))
        self.waiting[block] = buffer
        self.waited = True
        self.allocator.free(block, wait=True)

    def _return(self) -> None:
        """Before it serves a request, the allocator asks which blocks the other streams are done with
        (`process_events`). Those of which it is certain are: the latest moment that can be."""
        for block in self._awaited.done():
            self._write(Action.FREE_COMPLETED, self.waiting.pop(block), block.address, block.size)
            self.allocator.complete(block)

    def _waited_for(self, block: Block) -> None:
        """The allocator itself waited, to give memory back to the card."""
        self._awaited.drop(block)
        self._write(Action.FREE_COMPLETED, self.waiting.pop(block), block.address, block.size)

    def _segment(self, allocated: bool, address: int, size: int) -> None:
        self._write(Action.SEGMENT_ALLOC if allocated else Action.SEGMENT_FREE, -1, address, size)

    def _write(self, action: Action, buffer: int, address: int, size: int) -> None:
        add_action, add_buffer, add_op, add_address, add_size = self._add
        add_action(action)
        add_buffer(buffer)
        add_op(self.op)
        add_address(address)
        add_size(size)


_ALLOC, _FREE = Action.ALLOC, Action.FREE


def _default_stream() -> int:
    return 0
