"""The ledger: what the allocator is asked, in order. Sizes in bytes."""

from __future__ import annotations

import pytest

from memgraph.capture.ledger import Ledger
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.trace import Action

MIB = 2**20


def written(ledger: Ledger) -> list[tuple[str, int]]:
    """(`ALLOC` or `FREE`, buffer) in order; segments are left out."""
    return [(event.action.name, event.buffer) for event in ledger.events() if event.buffer >= 0]


def test_allocations_and_frees_are_written_in_order_with_their_op() -> None:
    ledger = Ledger(Allocator(4 * MIB))
    ledger.op = 7
    first = ledger.allocate(1000)
    ledger.op = 8
    ledger.free(first)
    second = ledger.allocate(600)
    assert (first, second) == (0, 1)
    assert [(e.action, e.buffer, e.op, e.size) for e in ledger.events()] == [
        (Action.SEGMENT_ALLOC, -1, 7, 2 * MIB),
        (Action.ALLOC, 0, 7, 1024),  # the next multiple of 512
        (Action.FREE, 0, 8, 1024),
        (Action.ALLOC, 1, 8, 1024),
    ]
    assert list(ledger.sizes) == [1000, 600]


def test_what_dies_while_the_allocator_works_is_freed_when_it_is_done_in_the_order_of_death() -> None:
    """As when a garbage collection runs inside the allocator's own statements."""
    ledger = Ledger(Allocator(40 * MIB))  # 12, and a segment of 20 for the two others
    one, two, three = (ledger.allocate(size * MIB) for size in (12, 2, 3))

    def collect(_: OutOfMemory) -> None:
        ledger.free(three)
        ledger.free(one)
        assert written(ledger)[-1] == ("ALLOC", three)

    ledger.refuse = collect
    big = ledger.allocate(20 * MIB)
    assert written(ledger)[3:] == [("ALLOC", big), ("FREE", three), ("FREE", one)]
    assert ledger.overflowed
    ledger.free(two)
    ledger.free(big)
    assert ledger.allocator.allocated == 0


def test_a_refusal_that_raises_leaves_the_ledger_at_work() -> None:
    def refuse(error: OutOfMemory) -> None:
        raise error

    ledger = Ledger(Allocator(30 * MIB), refuse)
    kept = ledger.allocate(20 * MIB)
    with pytest.raises(OutOfMemory):
        ledger.allocate(20 * MIB)
    ledger.free(kept)
    again = ledger.allocate(20 * MIB)
    assert written(ledger) == [("ALLOC", 0), ("FREE", 0), ("ALLOC", again)]
    assert again == 1  # the request that failed is no buffer
    assert list(ledger.sizes) == [20 * MIB, 20 * MIB]


def test_what_dies_after_the_run_is_not_written() -> None:
    ledger = Ledger(Allocator(4 * MIB))
    buffer = ledger.allocate(1000)
    ledger.close()
    ledger.free(buffer)
    assert written(ledger) == [("ALLOC", 0)]


def test_a_phase_lasts_until_the_next_and_is_not_entered_twice() -> None:
    ledger = Ledger(Allocator(4 * MIB))
    ledger.enter("load", 0)
    ledger.allocate(100)
    ledger.enter("forward", 1)
    ledger.enter("forward", 1)
    ledger.allocate(100)
    ledger.enter("forward", 2)
    assert ledger.finished_phases() == (("load", 0, 0, 2), ("forward", 1, 2, 3), ("forward", 2, 3, 3))
