"""What was there before a recording began is told by what the recording shows, and not where it shows two things."""

from __future__ import annotations

from array import array

import pytest

from memgraph.files.snapshot_earlier import told_earlier
from memgraph.files.stacks import Site
from memgraph.files.told_buffers import CATEGORIES, told_buffers
from memgraph.trace import Action, Category, Event, Events, Op, Phase
from memgraph.trace.rows import Buffers

MOMENT = Site("aten._foreach_sqrt", "train.py:9", "optim/adam.py:700 in _multi_tensor_adam", "optimizer", "", "tensor")
SECOND = MOMENT._replace(source="train.py:12")
PHASES = (Phase("before", 0, 0, 5), Phase("forward", 1, 5, 6), Phase("backward", 1, 6, 8), Phase("optimizer", 1, 8, 8))
WORKSPACE = 4096 * 8 * 1024
MIB = 2**20


def told(sites: list[Site], first: str = "aten.addmm.default", stream: int = 0) -> tuple[list[Op], int]:
    """The ops of five old buffers, optimizer state, a gradient, two workspaces of cuBLAS and one of cuBLASLt, and how
    many are said to be inferred. A forward makes a product, its backward a product and a gradient as large as the old.

    Args:
        stream: of the second workspace.
    """
    sizes = array("q", [512, 1024, WORKSPACE, WORKSPACE, MIB, 64, 64, 1024])
    ops = (
        Op(first, 1, "", "net.py:3"),
        Op("aten.mm.default", 2, "", "net.py:5"),
        Op("aten.mm.default", 2, "", "net.py:4"),
    )
    made = array("q", [-1, -1, -1, -1, -1, 0, 1, 2])
    events = Events(Event(Action.ALLOC, number, op, 2**20 * number, 0) for number, op in enumerate(made))
    buffers = told_buffers(sizes, made, array("q", [0, 0, 0, stream, 0, 0, 0, 0]))
    kinds = (Category.OPTIMIZER, Category.GRADIENT, Category.WORKSPACE, Category.WORKSPACE, Category.WORKSPACE,
             Category.TEMPORARY, Category.TEMPORARY, Category.GRADIENT)  # fmt: skip
    for number, kind in enumerate(kinds):
        buffers.categories[number] = CATEGORIES[kind]
    every, found, notes = told_earlier(ops, buffers, events, sites, PHASES)
    assert list(events.columns[2])[:5] == list(found.ops)[:5]
    return [every[op] if op >= 0 else Op("", -1) for op in found.ops[:5]], _inferred(found, notes)


def _inferred(found: Buffers, notes: tuple[str, ...]) -> int:
    count = sum(op >= 0 for op in found.ops[:5])
    assert (f"of {count:,} of these" in notes[0] and "inferred" in notes[0]) if count else not notes
    return count


def test_as_the_recording_makes_such_things() -> None:
    (state, gradient, forward, backward, epilogue), count = told([MOMENT])
    assert (state.name, state.source) == ("aten.zeros_like.default", "train.py:9")
    assert (gradient.name, gradient.source) == ("aten.mm.default", "net.py:4")
    assert [op.source for op in (forward, backward, epilogue)] == ["net.py:3", "net.py:5", "net.py:3"]
    assert {op.phase for op in (state, gradient, forward, backward, epilogue)} == {0} and count == 5


@pytest.mark.parametrize("sites", [[], [MOMENT, SECOND], [MOMENT._replace(library="optim/mine.py:3 in step")]])
def test_of_two_optimizers_or_an_unknown_one_no_state_is_told(sites: list[Site]) -> None:
    rows, count = told(sites)
    assert rows[0].name == "" and count == 4


def test_no_product_that_adds_a_bias_has_taken_the_workspace_of_cublaslt() -> None:
    rows, count = told([MOMENT], first="aten.bmm.default")
    assert [row.name for row in rows[2:]] == ["aten.bmm.default", "aten.mm.default", ""] and count == 4


def test_workspaces_of_two_streams_are_not_those_of_two_threads() -> None:
    rows, count = told([MOMENT], stream=1)
    assert [row.name for row in rows[2:]] == ["", "", "aten.addmm.default"] and count == 3
