"""What is kept of each call: enough to draw it, and to say what it reads."""

from __future__ import annotations

import torch

from memgraph.capture.tags import Calls, Tag
from memgraph.trace import Op
from tests.capture.watching import card

aten = torch.ops.aten


def test_arguments_are_as_they_were_given() -> None:
    """Lists of sizes, of tensors and of both integers and floats; numbers of three classes; what is given by name."""
    with card() as gpu:
        base = torch.empty(2, 6, device="cuda")
        base.view(3, 4)
        torch.cat([base, base], 1)
        torch.clamp(base, 0, 1.5)
        torch._foreach_add([base, base], [1, 2.5])
        torch.sum(base, [0, 1], keepdim=True, dtype=torch.float64)
    _, view, cat, clamp, foreach, total = gpu.recorder.calls
    (first,) = [arg for arg in view.args if isinstance(arg, Tag)]
    assert (first.op, first.index, first.spec.shape) == (0, 0, (2, 6))
    assert view.args == (first, [3, 4])
    assert cat.args == ([first, first], 1)
    assert clamp.args == (first, 0, 1.5) and type(clamp.args[1]) is int
    assert foreach.args == ([first, first], [1, 2.5])
    assert total.args == (first, [0, 1], True) and total.kwargs == {"dtype": torch.float64}
    assert [op.reads for op in gpu.trace.ops] == [(), (0,), (0, 0), (0,), (0, 0), (0,)]


def test_numbers_that_are_equal_and_of_other_classes_are_other_calls() -> None:
    """1, 1.0 and True promote differently, also where they stand in a list after an integer."""
    with card() as gpu:
        whole = torch.empty(4, dtype=torch.int32, device="cuda")
        kinds = [(whole + number).dtype for number in (1, 1.0, True)]
        lists = [torch._foreach_add([whole, whole], [1, number])[1].dtype for number in (2, 2.0)]
    assert kinds == [torch.int32, torch.float32, torch.int32]
    assert lists == [torch.int32, torch.float32]
    assert len(gpu.trace.ops) == 6


def test_a_tensor_made_outside_is_nobodys() -> None:
    with card() as gpu:
        torch.ones(4, device="cuda") + torch.tensor(2.0)
    _, call = gpu.recorder.calls
    assert (call.args[0].op, call.args[1].op, call.args[1].index) == (0, -1, 1)
    assert gpu.trace.ops[1].reads == (0,)


def test_the_second_of_two_results_is_told_from_the_first() -> None:
    with card() as gpu:
        _, indices = torch.ones(4, 4, device="cuda").max(1)
        indices + 1
    *_, last = gpu.recorder.calls
    assert last.args[0][:2] == (1, 1)


def test_what_ops_read_is_told_by_how_many_tensors_they_take() -> None:
    calls = Calls()
    calls.add((None,), [5 << 24 | 3, -7])
    calls.add((None,), [])
    calls.add((None,), [2 << 24])
    two, one = gpu_specs(2), gpu_specs(1)
    ops = [Op("a", 0, inputs=two), Op("b", 0), Op("c", 0, inputs=one)]
    assert list(calls.reads(ops)) == [(5,), (), (2,)]


def gpu_specs(count: int) -> tuple[object, ...]:
    """So many inputs; what they look like does not matter."""
    return tuple(range(count))
