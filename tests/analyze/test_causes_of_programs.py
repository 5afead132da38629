"""Causes that the program's own doings show: cycles of references, gradients that are not there, attention by steps,
copies by autocast. Each is told where it is, and not where it is not."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import memgraph
from memgraph.analyze.causes import causes
from memgraph.analyze.finding import Finding
from memgraph.trace import Trace

MIB = 2**20
WEIGHT = 4096 * 4096


def found(trace: Trace) -> dict[str, Finding]:
    return {one.name: one for one in causes(trace)}


# ---- cycles


class Node:
    """Refers to itself, if it shall."""

    def __init__(self, data: torch.Tensor, cyclic: bool) -> None:
        self.data = data
        self.me = self if cyclic else None


def _nodes(cyclic: bool) -> Trace:
    """Twice sixteen objects with 16 MiB each, of which only the last has a name; the collector runs after each."""
    with memgraph.virtual_gpu("t4") as gpu:
        for _ in range(2):
            for _ in range(16):
                node = Node(torch.zeros(16 * MIB, dtype=torch.uint8, device="cuda"), cyclic)
            gc.collect()
        del node
    return gpu.trace


def test_objects_in_cycles_wait_for_the_collector() -> None:
    """In the second round the last object of the first is alive too: of seventeen the program can still use one."""
    one = found(_nodes(True))["reference-cycles"]
    assert one.bytes == 16 * 16 * MIB
    assert "16 x zeros, analyze/test_causes_of_programs.py:" in one.what
    assert "`Node` objects (analyze/test_causes_of_programs.py:" in one.why and "weakref" in one.help


def test_objects_without_cycles_do_not() -> None:
    assert not found(_nodes(False))


def _caught(kept: bool) -> None:
    data = torch.zeros(16 * MIB, dtype=torch.uint8, device="cuda")
    try:
        raise ValueError(len(data))
    except ValueError as error:
        seen = error if kept else str(error)
    assert seen


@pytest.mark.parametrize("kept", [True, False])
def test_an_exception_that_is_kept_keeps_the_variables_of_its_function(kept: bool) -> None:
    """Twice eight calls with 16 MiB each: the last of eight was not over at the peak, in the second round's eighth."""
    with memgraph.virtual_gpu("t4") as gpu:
        for _ in range(2):
            for _ in range(8):
                _caught(kept)
            if kept:
                gc.collect()
    rows = found(gpu.trace)
    assert ("reference-cycles" in rows) == kept
    if kept:
        assert rows["reference-cycles"].bytes == 7 * 16 * MIB
        assert "an exception" in rows["reference-cycles"].why


def test_a_model_in_a_cycle_is_no_waste_while_it_is_used() -> None:
    """Ten layers of 16 MiB, used to the end, then freed by the collector: they were no garbage at the peak."""
    with memgraph.virtual_gpu("t4") as gpu:
        for _ in range(2):
            net = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(10))).cuda()
            net.me = [net]
            for _ in range(2):
                net(torch.randn(1, 2048, device="cuda"))
            del net
            gc.collect()
    assert not found(gpu.trace)


# ---- gradients


def _trained(how: str) -> Trace:
    """Eight layers of 16 MiB and a head."""
    with memgraph.virtual_gpu("a100-40gb") as gpu:
        body = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(8))).cuda()
        head = nn.Linear(2048, 10).cuda()
        spare = nn.Linear(2048, 2048).cuda()
        update = torch.optim.SGD([*body.parameters(), *head.parameters(), *spare.parameters()])
        body.requires_grad_(how != "frozen")
        for _ in range(2):
            x = torch.randn(4, 2048, device="cuda", requires_grad=how == "input")
            if how in ("none", "frozen"):
                y = body(x)
            else:
                y = checkpoint(body, x, use_reentrant=how != "other")
            head(y).sum().backward()
            update.step()
            update.zero_grad()
    return gpu.trace


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_parameters_inside_a_reentrant_checkpoint_whose_input_needs_no_gradient() -> None:
    """The eight layers, and the spare one that nothing calls, with its bias: 9 × 16 MiB + 8 KiB."""
    one = found(_trained("reentrant"))["no-gradient"]
    assert one.bytes == 9 * 16 * MIB + 2048 * 4
    assert "10 of 12 parameters" in one.what and "SGD" in one.what and "use_reentrant=False" in one.help
    assert one.where.startswith("analyze/test_causes_of_programs.py:")


@pytest.mark.parametrize("how", ["none", "other", "input", "frozen"])
def test_a_spare_layer_or_frozen_ones_are_no_cause(how: str) -> None:
    assert "no-gradient" not in found(_trained(how))


# ---- attention


def _attend(gpu: str, dtype: torch.dtype, width: int = 64, mask: bool = False) -> Trace:
    with memgraph.virtual_gpu(gpu) as card:
        q, k, v = (torch.randn(4, 8, 1024, width, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
        bias = torch.zeros(4, 8, 1024, 1024, device="cuda", dtype=dtype).transpose(2, 3) if mask else None
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias).sum().backward()
    return card.trace


@pytest.mark.parametrize(
    ("gpu", "dtype", "width", "mask", "why", "help_"),
    [
        ("t4", torch.bfloat16, 64, False, "bfloat16 needs compute capability 8.0", "float16"),
        ("a100-40gb", torch.float64, 64, False, "float64", "half precision or fp32"),
        ("a100-40gb", torch.bfloat16, 64, True, "mask's rows", "attn_mask.contiguous()"),
        ("a100-40gb", torch.float32, 63, False, "head dimension 63", "half precision"),
    ],
)
def test_attention_that_no_fused_kernel_takes(
    gpu: str, dtype: torch.dtype, width: int, mask: bool, why: str, help_: str
) -> None:
    one = found(_attend(gpu, dtype, width, mask))["attention-by-steps"]
    assert one.bytes >= 2 * 4 * 8 * 1024 * 1024 * dtype.itemsize
    assert "[4, 8, 1024, 1024]" in one.what or "[32, 1024, 1024]" in one.what
    assert why in one.why and help_ in one.help


@pytest.mark.parametrize(
    ("gpu", "dtype", "width"),
    [("t4", torch.float16, 64), ("t4", torch.float32, 64), ("a100-40gb", torch.bfloat16, 64),
     ("h200", torch.bfloat16, 96)],
)  # fmt: skip
def test_attention_that_one_takes_is_no_cause(gpu: str, dtype: torch.dtype, width: int) -> None:
    trace = _attend(gpu, dtype, width)
    assert not found(trace) and not trace.facts


# ---- precision


def _products(batch: int, *, amp: bool, half: bool = False) -> Trace:
    """Three weights of 64 MiB; gradients of two batches are added up."""
    with memgraph.virtual_gpu("t4") as gpu:
        net = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(3))).cuda()
        x = torch.randn(batch, 4096, device="cuda")
        if half:
            net, x = net.half(), x.half()
        for _ in range(2):
            with torch.autocast("cuda", torch.float16, enabled=amp):
                loss = net(x).sum()
            loss.backward()
    return gpu.trace


def test_autocast_costs_more_than_it_saves_with_a_small_batch() -> None:
    """At the peak, the copy of the second weight in half precision and the gradient of the last in it: 32 MiB each."""
    one = found(_products(256, amp=True))["autocast-copies"]
    assert one.bytes == 2 * 2 * WEIGHT
    assert "float16" in one.what and "larger batch" in one.help


def test_it_does_not_with_a_large_one_or_without_it() -> None:
    assert not found(_products(32768, amp=True))
    assert not found(_products(256, amp=False))
    assert not found(_products(256, amp=False, half=True))
