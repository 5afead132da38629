"""The lines of a backward, and what an op frees itself, of histories by hand."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import memgraph
from memgraph.trace import Category, Role, Trace
from tests.files.stacks_by_hand import ALLOCATE, ENGINE, TORCH, called, native, python

Frames = list[dict[str, Any]]
LINES = (10, 20, 30)
"""Of three calls in the forward."""


def forward(name: str, line: int) -> Frames:
    module = python((f"{TORCH}/nn/modules/module.py", "_call_impl", 1789), ("/home/me/train.py", "step", line))
    return [*ALLOCATE, *called(name), *module]


def node(name: str) -> Frames:
    return [*native(f"torch::autograd::generated::{name}::apply(std::vector<at::Tensor>&&)"), *ENGINE]


def trace_of(tmp_path: Path, rows: Sequence[tuple[str, int, Frames]]) -> Trace:
    """A history of allocations and frees: action, a number that stands for the address, the stack."""
    entries = [{"action": "segment_alloc", "addr": 0, "size": 2**25, "stream": 0, "frames": []}]
    entries += [{"action": action, "addr": 512 * number, "size": 500, "stream": 0, "frames": frames}
                for action, number, frames in rows]  # fmt: skip
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [entries]}))
    return memgraph.load(path)


def lines(trace: Trace) -> list[str]:
    return [trace.ops[buffer.op].source.rpartition(":")[2] for buffer in trace.buffers]


def test_a_node_may_allocate_twice_at_one_stack(tmp_path: Path) -> None:
    """Two gradients of a product by one function of C++, which has no lines: three calls, six of them."""
    product = [*ALLOCATE, *called("mm"), *node("MmBackward0")]
    rows = [("alloc", n, forward("mm", line)) for n, line in enumerate(LINES)]
    rows += [("alloc", 3 + n, product) for n in range(6)]
    assert lines(trace_of(tmp_path, rows))[3:] == ["30", "30", "20", "20", "10", "10"]


def test_of_the_first_layer_no_gradient_is_asked(tmp_path: Path) -> None:
    product = [*ALLOCATE, *called("mm"), *node("MmBackward0")]
    rows = [("alloc", n, forward("mm", line)) for n, line in enumerate(LINES)]
    rows += [("alloc", 3 + n, product) for n in range(5)]
    assert lines(trace_of(tmp_path, rows))[3:] == ["30", "30", "20", "20", "10"]


def test_a_library_may_ask_for_several_workspaces(tmp_path: Path) -> None:
    """Of three convolutions the last tries two kernels before one is taken: five workspaces, three gradients."""
    raw = native("c10::cuda::CUDACachingAllocator::Native::NativeCachingAllocator::allocate(unsigned long)")
    workspace = [*raw, *called("convolution_backward"), *node("ConvolutionBackward0")]
    gradient = [*ALLOCATE, *called("convolution_backward"), *node("ConvolutionBackward0")]
    rows = [("alloc", n, forward("convolution", line)) for n, line in enumerate(LINES)]
    rows += [("alloc", 3 + n, workspace if n in (0, 1, 2, 4, 6) else gradient) for n in range(8)]
    assert lines(trace_of(tmp_path, rows))[3:] == ["30"] * 4 + ["30", "20", "20", "10"]


def test_what_the_engine_sums_is_of_the_node_before(tmp_path: Path) -> None:
    """The bias's gradient: its engine brings it to the shape of its parameter."""
    product, summed = (
        [*ALLOCATE, *called("mm"), *node("AddmmBackward0")],
        [*ALLOCATE, *called("sum_dim_IntList"), *ENGINE],
    )
    rows = [("alloc", n, forward("addmm", line)) for n, line in enumerate(LINES[:2])]
    rows += [("alloc", 2, product), ("alloc", 3, summed), ("alloc", 4, product), ("alloc", 5, summed)]
    assert lines(trace_of(tmp_path, rows))[2:] == ["20", "20", "10", "10"]


def test_what_an_op_frees_itself_is_its_workspace(tmp_path: Path) -> None:
    """A tensor that the kernel makes and drops; one that Python drops is a temporary."""
    within, dropped = forward("sort", 10), python(("/home/me/train.py", "step", 11))
    rows = [("alloc", 0, within), ("alloc", 1, within), ("free_requested", 0, within), ("free_completed", 0, within),
            ("free_requested", 1, dropped), ("free_completed", 1, dropped), ("alloc", 2, forward("mm", 20)),
            ("alloc", 3, [*ALLOCATE, *called("mm"), *node("MmBackward0")])]  # fmt: skip
    first, second = trace_of(tmp_path, rows).buffers[:2]
    assert (first.category, first.role) == (Category.WORKSPACE, Role.TEMPORARY)
    assert (second.category, second.role) == (Category.TEMPORARY, Role.OUTPUT)
