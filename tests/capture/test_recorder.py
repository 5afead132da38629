"""When buffers are born and die on a virtual GPU: the lifetimes of eager PyTorch, on models small enough to count by
hand. Workspaces are left out of the stories; `float` is 4 bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import memgraph
from memgraph.capture.accumulate import Accumulation
from memgraph.capture.inferring import Inferring
from tests.capture.watching import card, check, left, maker, outputs_of, story, the_output_of

# What autograd saves.


def test_linear_and_relu() -> None:
    """ReLU saves its result, so the linear layer's is freed at once: 4 × 20 × 4 = 320 bytes twice, then once."""
    with card() as gpu:
        layer = nn.Linear(10, 20).cuda()
        x = torch.zeros(4, 10).cuda()
        y = layer(x).relu()
        y.sum().backward()
    assert story(gpu.trace) == [
        "+_to_copy 800",  # the weight, 10 × 20 × 4
        "+_to_copy 80",  # the bias, 20 × 4
        "+_to_copy 160",  # x, 4 × 10 × 4
        "+addmm 320",
        "+relu 320",
        "-addmm 320",
        "+sum 4",
        "+ones_like 4",  # the loss's own gradient
        "+threshold_backward 320",
        "+mm 800",  # the weight's gradient; x needs none
        "+sum 80",  # the bias's
        "-threshold_backward 320",
        "-ones_like 4",
        "-sum 4",
    ]
    assert left(gpu.trace) == ["_to_copy 800", "_to_copy 80", "_to_copy 160", "relu 320", "mm 800", "sum 80"]
    check(gpu.trace)


def test_what_backward_needs_lives_until_backward_and_the_rest_does_not() -> None:
    """exp saves its result, sin its input, which is the same tensor; cos its input, the result of sin."""
    with card() as gpu:
        w = torch.zeros(100, device="cuda", requires_grad=True)
        loss = w.exp().sin().cos().sum()
        forward = story(gpu.trace)
        loss.backward()
    assert forward == ["+zeros 400", "+exp 400", "+sin 400", "+cos 400", "+sum 4", "-cos 400"]
    assert story(gpu.trace, "backward") == [
        "+sin 400", "+neg 400", "+mul 400", "-neg 400", "-sin 400", "-sin 400",  # cos' = −sin; what cos had saved goes
        "+cos 400", "+mul 400", "-cos 400", "-mul 400",  # sin' = cos
        "+mul 400", "-mul 400", "-exp 400", "-ones_like 4",  # exp' = exp, saved
    ]  # fmt: skip
    assert left(gpu.trace) == ["zeros 400", "sum 4", "mul 400"]


def test_without_gradients_nothing_is_kept() -> None:
    with card() as gpu:
        x = torch.zeros(100, device="cuda", requires_grad=True)
        with torch.no_grad():
            y = x.exp().sin()
        with torch.inference_mode():
            z = x.exp().sin()
    assert story(gpu.trace) == ["+zeros 400", *["+exp 400", "+sin 400", "-exp 400"] * 2]
    assert y.shape == z.shape


# What makes no buffer.

SAME_STORAGE: dict[str, Callable[[Tensor], object]] = {
    "view": lambda a: a.view(24),
    "transpose": lambda a: a.t(),
    "select": lambda a: a[1],
    "slice": lambda a: a[:, 2:4],
    "expand": lambda a: a.expand(3, 4, 6),
    "detach": lambda a: a.detach(),
    "reshape": lambda a: a.reshape(2, 12),
    "split": lambda a: a.split(2),
    "unbind": lambda a: a.unbind(0),
    "chunk": lambda a: a.chunk(3, 1),
    "view as another dtype": lambda a: a.view(torch.int32),
    "contiguous already": lambda a: a.contiguous(),
    "float already": lambda a: a.float(),
    "there already": lambda a: a.to("cuda"),
    "add_": lambda a: a.add_(1),
    "relu_": lambda a: a.relu_(),
    "in place through a view": lambda a: a.t().mul_(2),
    "fill by index": lambda a: a.__setitem__(0, 3.0),
    "out": lambda a: torch.add(a, a, out=a),
    "copy_": lambda a: a.copy_(a.detach()),
    "_foreach_add_": lambda a: torch._foreach_add_([a], 1.0),
    "empty": lambda a: a.new_empty(0),
}


@pytest.mark.parametrize("name", SAME_STORAGE)
def test_views_and_in_place_ops_make_no_buffer(name: str) -> None:
    with card() as gpu:
        a = torch.zeros(4, 6, device="cuda")
        kept = SAME_STORAGE[name](a)
    assert story(gpu.trace) == ["+zeros 96"]  # 4 × 6 × 4
    del kept


def test_a_reshape_that_cannot_be_a_view_copies() -> None:
    with card() as gpu:
        a = torch.zeros(4, 6, device="cuda")
        b = a.t().reshape(24)
    assert story(gpu.trace) == ["+zeros 96", "+clone 96"]
    assert b.shape == (24,)


def test_a_buffer_is_as_large_as_its_storage() -> None:
    """An expanded tensor's copy is as large as it looks; a slice keeps all that it was cut from; gaps are paid for."""
    with card() as gpu:
        row = torch.zeros(10, device="cuda")
        grid = row.expand(7, 10).contiguous()
        piece = torch.zeros(1000, device="cuda")[:1]
        gaps = torch.empty_strided((2, 3), (10, 1), device="cuda")  # 10 + 3 elements from first to last
    assert left(gpu.trace) == ["zeros 40", "clone 280", "zeros 4000", "empty_strided 52"]
    assert (grid.shape, piece.shape, gaps.shape) == ((7, 10), (1,), (2, 3))


# Death.


def test_a_storage_dies_with_its_last_view() -> None:
    with card() as gpu:
        a, b, c = (torch.empty(n, device="cuda") for n in (10, 20, 30))
        view = a.view(2, 5)
        del b
        del a
        del c
        del view
    assert story(gpu.trace) == ["+empty 40", "+empty 80", "+empty 120", "-empty 80", "-empty 120", "-empty 40"]


def test_a_new_value_is_there_before_the_old_one_goes() -> None:
    with card() as gpu:
        a = torch.zeros(10, device="cuda")
        a = a.exp()
        a = a.sin()
    assert story(gpu.trace) == ["+zeros 40", "+exp 40", "-zeros 40", "+sin 40", "-exp 40"]
    assert a.shape == (10,)


def test_a_cycle_dies_when_the_collector_runs() -> None:
    class Holder:
        def __init__(self) -> None:
            self.tensor = torch.empty(10, device="cuda")
            self.me = self

    gc.disable()
    try:
        with card() as gpu:
            Holder()
            torch.empty(20, device="cuda")
            gc.collect()
    finally:
        gc.enable()
    assert story(gpu.trace) == ["+empty 40", "+empty 80", "-empty 80", "-empty 40"]


def test_what_dies_after_the_context_outlives_the_run() -> None:
    with card() as gpu:
        a = torch.empty(10, device="cuda")
    before = gpu.trace
    del a
    assert gpu.trace == before
    assert left(before) == ["empty 40"]


# Gradients.


def test_the_first_gradient_is_kept_and_the_next_added_into_it() -> None:
    with card() as gpu:
        w = torch.zeros(100, device="cuda", requires_grad=True)
        for _ in range(2):
            (w * 2).sum().backward()
    step = ["+mul 400", "+sum 4", "-mul 400", "+ones_like 4", "+mul 400"]
    assert story(gpu.trace) == [
        "+zeros 400",
        *step, "-ones_like 4", "-sum 4",  # the first stays: it is the gradient
        *step, "-mul 400", "-ones_like 4", "-sum 4",  # the second is added to it and freed
    ]  # fmt: skip


def test_gradients_that_meet_are_added_in_place() -> None:
    """h = 2w feeds two branches: autograd adds the second's gradient into the first's, and asks for no third."""
    with card() as gpu:
        w = torch.zeros(100, device="cuda", requires_grad=True)
        h = w * 2
        ((h * 3).sum() + (h * 5).sum()).backward()
    adds = [op.name for op in gpu.trace.ops if "add" in op.name]
    assert adds == ["aten.add.Tensor", "aten.add_.Tensor"]  # that of the losses, and that of the gradients
    assert outputs_of(gpu.trace, "add_") == []
    backward = [line for line in story(gpu.trace, "backward") if "mul" in line]
    # Two branches, then their sum times 2; what came second is freed first.
    assert backward == ["+mul 400", "+mul 400", "-mul 400", "+mul 400", "-mul 400"]


def test_a_gradient_that_somebody_holds_is_not_added_into() -> None:
    """A hook keeps the first branch's gradient: the engine may not write into it, and makes a third tensor."""
    held: list[Tensor] = []
    with card() as gpu:
        w = torch.zeros(100, device="cuda", requires_grad=True)
        h = w * 2
        one, two = h * 3, h * 5
        h.register_hook(lambda gradient: None)
        one.grad_fn.register_hook(lambda gradients, _: held.append(gradients[0]))  # type: ignore[union-attr]
        two.grad_fn.register_hook(lambda gradients, _: held.append(gradients[0]))  # type: ignore[union-attr]
        (one.sum() + two.sum()).backward()
    assert [op.name for op in gpu.trace.ops if "add" in op.name] == ["aten.add.Tensor", "aten.add.Tensor"]
    assert len(held) == 2


def test_an_expanded_gradient_is_not_added_into() -> None:
    """sum's gradient is one element seen many times: not dense, so nothing can be added into it."""
    with card() as gpu:
        w = torch.zeros(100, device="cuda", requires_grad=True)
        h = w * 2
        (h.sum() + h.sum()).backward()
    assert len(outputs_of(gpu.trace, "add")) == 2


class Node:
    """As Python sees a node of C++: an object anew each time that somebody asks, once the last one died. Its gradients
    go different ways."""

    next_functions = (("first", 0), ("second", 0), (None, 0), (None, 0))

    def _sequence_nr(self) -> int:
        return 7


def test_what_a_formula_adds_is_its_own_whichever_object_shows_its_node() -> None:
    """Ops 3 and 4 make what op 5 adds, all in one node: no gradients that met in a buffer, which came before it."""
    with card():
        old, new = torch.zeros(8, device="cuda"), torch.zeros(8, device="cuda")
        met = Accumulation(None)
        with torch.no_grad():
            met.evaluating(Node(), 2)
            assert met.in_place((old, new), lambda _: 1, Node()) is False
            assert len(met.seen) == 1  # made before the node: the engine's, whose references are counted
            met.evaluating(Node(), 5)
            assert met.in_place((old, new), lambda _: 3, Node()) is False
            assert len(met.seen) == 1


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_frees_the_gradient_or_keeps_it(to_none: bool) -> None:
    with card() as gpu:
        w = torch.zeros(100, device="cuda", requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1)
        (w * 2).sum().backward()
        before = len(story(gpu.trace))
        optimizer.zero_grad(set_to_none=to_none)
    assert story(gpu.trace)[before:] == (["-mul 400"] if to_none else [])


# Conservation.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["new", "unary", "binary", "view", "in place", "delete", "backward"]), st.integers(0, 30)
    ),
    max_size=40,
)


def play(steps: list[tuple[str, int]]) -> list[Tensor]:
    """A program of so many statements; what its variables hold at its end."""
    held: list[Tensor] = []
    for what, number in steps:
        one, other = (held[number % len(held)], held[number // 2 % len(held)]) if held else (None, None)
        if what == "new" or one is None or other is None:
            held.append(torch.zeros(number + 1, 3, device="cuda", requires_grad=number % 2 == 0))
        elif what == "unary":
            held.append(one.sin())
        elif what == "binary":
            held.append(one[:1] * other[:1])
        elif what == "view":
            held.append(one.detach()[number % one.shape[0] :])
        elif what == "in place":
            one.data.add_(1)  # what autograd saved is not checked against it
        elif what == "delete":
            del held[number % len(held)]
        elif one.requires_grad:
            one.sum().backward(retain_graph=True)
    return held


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_a_program_does_the_trace_adds_up(steps: list[tuple[str, int]]) -> None:
    """At its end, once autograd's graphs are gone, exactly the storages live that its variables and their gradients
    hold."""
    with card() as gpu:
        held = [tensor.detach() if not tensor.is_leaf else tensor for tensor in play(steps)]
        storages = {}
        for tensor in held:
            for part in (tensor, tensor.grad):
                if part is not None:
                    storages[part.untyped_storage()._cdata] = part.untyped_storage().nbytes()
    trace = gpu.trace
    check(trace)
    live = [trace.buffers[i] for i in trace.live_at(len(trace.events) - 1)] if trace.events else []
    assert sum(buffer.size for buffer in live) == sum(storages.values())


def test_every_op_says_what_it_made() -> None:
    with card() as gpu:
        x = torch.zeros(4, 6, device="cuda")
        values, indices = x.max(dim=1)
    (op,) = [op for op in gpu.trace.ops if op.name == "aten.max.dim"]
    assert op.inputs == ((tuple(x.shape), "float32"),)
    assert op.outputs == (((4,), "float32"), ((4,), "int64"))
    assert {
        (maker(gpu.trace, b), gpu.trace.buffers[b].dtype, gpu.trace.buffers[b].size)
        for b in outputs_of(gpu.trace, "max")
    } == {
        ("max", "float32", 16),
        ("max", "int64", 32),
    }
    assert the_output_of(gpu.trace, "zeros") == 0
    del values, indices


def test_a_result_that_holds_numbers_is_remembered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention returns the longest sequence beside its tensors: its meta kernel is run for the first layer alone."""
    made: list[str] = []
    run = Inferring._made_by_kernel

    def noted(self: Inferring, operator: Any, *rest: Any) -> Any:
        made.append(operator.name)
        return run(self, operator, *rest)

    monkeypatch.setattr(Inferring, "_made_by_kernel", noted)
    with memgraph.virtual_gpu("h200") as gpu, torch.no_grad():
        heads = torch.randn(1, 4, 16, 64, device="cuda", dtype=torch.bfloat16)
        for _ in range(3):
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    attention = [op.name for op in gpu.trace.ops if "attention" in op.name]
    assert len(attention) == 3
    assert [name for name in made if "attention" in name] == attention[:1]
