"""Where the phases of a recorded run begin: a mark is a count of allocations, and stands before what the next one
did."""

from __future__ import annotations

import os

from memgraph.capture.real.history import _phases
from memgraph.capture.real.marks import StepsMarked
from memgraph.trace import Action, Event, Events, Phase

ALLOC, FREE, SEGMENT = Action.ALLOC, Action.FREE, Action.SEGMENT_ALLOC


def test_a_segment_taken_for_an_allocation_belongs_to_its_phase() -> None:
    actions = (SEGMENT, ALLOC, ALLOC, FREE, SEGMENT, ALLOC, ALLOC)
    events = Events(Event(action, 0, -1, 0, 512) for action in actions)
    # `input` is marked after two allocations, `forward` after three, `after` when all four are done.
    phases = _phases([("load", 0, 10), ("input", 1, 12), ("forward", 1, 13), ("after", 1, 14)], events)
    assert phases == (
        Phase("load", 0, 0, 4), Phase("input", 1, 4, 6), Phase("forward", 1, 6, 7), Phase("after", 1, 7, 7),
    )  # fmt: skip


def test_a_worker_that_was_forked_off_marks_nothing() -> None:
    """A DataLoader's transforms may be modules, which are called there: CUDA cannot be used in a fork."""
    told: list[str] = []
    marked = StepsMarked(told.append, None)
    child = os.fork()
    if not child:
        marked._called(None)
        os._exit(len(told))
    assert os.waitpid(child, 0)[1] == 0
    marked._called(None)
    assert told == ["input", "forward"]
