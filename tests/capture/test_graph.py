"""`gpu.graph`: every ATen call of the run as a `torch.fx.Graph`."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

import memgraph
from memgraph.capture.session import VirtualGpu

HERE = f"{Path(__file__).parent.name}/{Path(__file__).name}"


class Model(nn.Module):
    """A layer, and a maximum that has two results."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, _ = self.layer(x).max(dim=1)
        result: torch.Tensor = values.exp()
        return result


@pytest.fixture(scope="module")
def gpu() -> VirtualGpu:
    """One training step."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        model = Model().cuda()
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.zeros(4, 8).cuda()).sum().backward()
        optimizer.step()
    return gpu


def calls(graph: Graph) -> list[Node]:
    """The nodes of ATen calls."""
    return [node for node in graph.nodes if node.op == "call_function" and node.target is not operator.getitem]


def one(graph: Graph, name: str) -> Node:
    """The one call of `aten.NAME`."""
    (node,) = [node for node in calls(graph) if str(node.target).startswith(f"aten.{name}.")]
    return node


def test_it_is_a_whole_fx_graph(gpu: VirtualGpu) -> None:
    graph = gpu.graph
    assert type(graph) is Graph
    graph.lint()
    assert "torch.ops.aten.addmm.default" in GraphModule(nn.Module(), graph).code


def test_every_call_of_the_trace_is_in_it_in_order(gpu: VirtualGpu) -> None:
    assert [str(node.target) for node in calls(gpu.graph)] == [op.name for op in gpu.trace.ops]
    assert len(gpu.trace.ops) > 20


def test_nodes_know_shape_dtype_module_line_and_phase(gpu: VirtualGpu) -> None:
    for node, op in zip(calls(gpu.graph), gpu.trace.ops, strict=True):
        assert (node.meta["module"], node.meta["source"], node.meta["phase"]) == (op.module, op.source, op.phase)
        if op.outputs:
            assert (node.meta["shape"], node.meta["dtype"]) == op.outputs[0]
    product = one(gpu.graph, "addmm")
    assert (product.meta["shape"], product.meta["dtype"], product.meta["module"]) == ((4, 6), "float32", "layer")
    assert product.meta["source"].startswith(f"{HERE}:")
    assert gpu.trace.phases[product.meta["phase"]].name == "forward"
    (gradient,) = [node for node in calls(gpu.graph) if str(node.target) == "aten.mm.default"]
    assert gpu.trace.phases[gradient.meta["phase"]].name == "backward"


def test_a_result_leads_to_the_calls_that_take_it(gpu: VirtualGpu) -> None:
    graph = gpu.graph
    maximum, exp = one(graph, "max"), one(graph, "exp")
    (values,) = exp.all_input_nodes
    assert values.target is operator.getitem
    assert values.args == (maximum, 0)
    assert maximum.all_input_nodes == [one(graph, "addmm")]


def test_a_part_of_a_result_knows_its_own_shape(gpu: VirtualGpu) -> None:
    maximum = one(gpu.graph, "max")
    parts = {user.args[1]: user.meta for user in maximum.users if user.target is operator.getitem}
    assert (parts[0]["shape"], parts[0]["dtype"]) == ((4,), "float32")
    assert (parts[1]["shape"], parts[1]["dtype"]) == ((4,), "int64")
    for place in ("module", "source", "phase"):
        assert parts[0][place] == parts[1][place] == maximum.meta[place]


def test_what_comes_from_the_cpu_is_a_placeholder(gpu: VirtualGpu) -> None:
    outside = [node.meta for node in gpu.graph.nodes if node.op == "placeholder"]
    assert sorted(meta["shape"] for meta in outside) == [(4, 8), (6,), (6, 8)]
    assert {meta["dtype"] for meta in outside} == {"float32"}


def test_lists_of_tensors_are_arguments_too(gpu: VirtualGpu) -> None:
    moments = [node for node in calls(gpu.graph) if "_foreach_lerp_" in str(node.target)]
    assert moments
    assert [len(argument) for argument in moments[0].args[:2] if isinstance(argument, (list, tuple))] == [2, 2]


def test_a_list_of_one_is_still_a_list() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        (whole,) = torch.zeros(4, device="cuda").split(4)
        whole.exp()
    graph = gpu.graph
    (argument,) = one(graph, "exp").all_input_nodes
    assert argument.target is operator.getitem
    assert argument.args == (one(graph, "split"), 0)
    graph.lint()


def test_it_grows_with_the_run() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert [node.op for node in gpu.graph.nodes] == ["output"]
        torch.zeros(4, device="cuda").exp()
        before = len(gpu.graph.nodes)
        torch.zeros(4, device="cuda").exp()
    assert (before, len(gpu.graph.nodes)) == (3, 5)
