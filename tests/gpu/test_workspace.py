"""The table of rules and its look-up."""

from __future__ import annotations

import pytest

from memgraph.errors import InvariantError
from memgraph.gpu import workspace
from memgraph.gpu.call import Call, Output, Release, Temporary
from memgraph.gpu.rules import plain, reductions
from tests.gpu.workspace_calls import H200, RTX3090, new, run


def test_what_nothing_knows_is_unknown_not_free() -> None:
    assert run("frobnicate", new(4), out=new(4)) is None


def test_ops_known_to_take_nothing_in_place_or_not() -> None:
    assert run("cat", (new(4), new(4)), 0, out=new(8)) == ()
    assert run("copy_", new(4), new(4)) == ()
    assert run("_fused_adamw_", (new(4),)) == ()
    assert run("_foreach_addcmul_", (new(4),)) == ()


def test_a_rule_is_not_also_listed_as_plain() -> None:
    names = {name for name in workspace.table_of_rules() if "." not in name}  # of an overload alone: beside the list
    assert not names & plain.NO_TEMPORARIES


def test_an_overload_may_have_a_rule_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"op": reductions.RULES["sum"], "op.special": reductions.RULES["amax"]}
    monkeypatch.setattr(workspace, "table_of_rules", lambda: table)
    assert workspace.rule_for("op", "special") is table["op.special"]
    assert workspace.rule_for("op", "default") is table["op"]


def test_two_files_may_not_claim_the_same_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memgraph.gpu.rules.losses.RULES", {"sum": reductions.RULES["sum"]})
    with pytest.raises(InvariantError, match="claim sum"):
        workspace.table_of_rules.__wrapped__()


def test_a_remembered_answer_is_that_of_the_same_card_and_version() -> None:
    call = Call("sum", "default", (new(2**22),), {}, (new(),))
    first = workspace.steps(call, H200, (2, 11))
    assert workspace.steps(call, H200, (2, 11)) is first
    assert workspace.steps(call, RTX3090, (2, 11)) != first


def test_an_op_on_the_host_takes_nothing_from_the_gpu() -> None:
    mask, total = new(8, 512, dtype="bool"), new(dtype="int64")
    assert run("sum", mask._replace(device="cpu"), out=total._replace(device="cpu")) == ()
    assert run("sum", mask, out=total) != ()


def test_equal_numbers_of_another_type_are_another_call() -> None:
    one, true = (Call("native_dropout", "default", (new(4), value, True), {}, (new(4),)) for value in (1, True))
    assert one == true
    assert workspace._key(one) != workspace._key(true)


def test_arguments_that_cannot_be_hashed_are_answered_all_the_same() -> None:
    call = Call("sum", "dim_IntList", (new(64, 64), [1]), {}, (new(64),))  # a list where a tuple should be
    assert workspace.steps(call, H200, (2, 11)) == (Output(0),)


def test_every_rule_keeps_its_books() -> None:
    """A temporary is released at most once, and after it was allocated."""
    found = run(
        "embedding_dense_backward", new(8, 512, 576), new(8, 512, dtype="int64"), 49153, -1, False, out=new(49153, 576)
    )
    assert found is not None
    seen, freed = 0, set()
    for step in found:
        if isinstance(step, Temporary):
            seen += 1
        elif isinstance(step, Release):
            assert step.index < seen
            assert step.index not in freed
            freed.add(step.index)
