"""A card that is too small: the run goes on or is refused, and the trace is whole either way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from memgraph.capture.script import raise_out_of_memory
from tests.capture.watching import card, check, left

MIB = 2**20


def test_a_card_that_is_too_small_is_said_to_be_and_the_run_goes_on() -> None:
    with card(memory=30 * MIB) as gpu:
        a = torch.empty(20 * MIB, dtype=torch.uint8, device="cuda")
        b = a.logical_not()
        c = a.logical_not()
    assert not gpu.trace.fits
    assert gpu.trace.peak.requested == 60 * MIB
    check(gpu.trace)
    assert b.shape == c.shape


TOO_LARGE: dict[str, Callable[[Tensor], object]] = {
    "an output": lambda big: big.exp(),
    "the second of two outputs": lambda big: big[:700_000].sort(),  # 5.3 and 10.7 MiB beside 16
    "a temporary": lambda big: big.cumsum(0),
    "what follows a temporary": lambda big: nn.functional.layer_norm(big[:800_000].t(), (800_000,)),  # 6.1 MiB each
    "in the backward": lambda big: big.detach().requires_grad_().sum().backward(),
}


def raises_out_of_memory(statement: Callable[[], object]) -> bool:
    """Whether it does; the traceback, which holds the tensors of its frames, is gone afterwards."""
    try:
        statement()
    except torch.cuda.OutOfMemoryError as error:
        return str(error).startswith("CUDA out of memory. ")
    return False


@pytest.mark.parametrize("failing", TOO_LARGE)
def test_out_of_memory_leaves_a_whole_trace_and_a_usable_card(failing: str) -> None:
    with card(memory=30 * MIB) as gpu:
        raise_out_of_memory(gpu)
        big = torch.zeros(2 * MIB, 2, device="cuda")  # 16 MiB
        assert raises_out_of_memory(lambda: TOO_LARGE[failing](big))
        torch.zeros((), device="cuda", requires_grad=True).backward()  # autograd's thread has let go of the other
        after = big[:10].exp()
    check(gpu.trace)
    assert not gpu.trace.fits
    assert left(gpu.trace) == [f"zeros {16 * MIB}", "exp 80"]  # nothing of the op that failed
    gpu.graph.lint()
    assert after.shape == (10, 2)


def test_an_op_that_refuses_its_arguments_is_in_the_graph_without_a_result() -> None:
    with card() as gpu:
        x = torch.zeros(4, 6, device="cuda")
        with pytest.raises(RuntimeError, match="6"):
            x.add(torch.zeros(5, 6, device="cuda"))
        y = x.exp()
    failed, after = gpu.trace.ops[-2:]
    assert (failed.name, failed.outputs) == ("aten.add.Tensor", ())
    assert (after.name, after.outputs) == ("aten.exp.default", (((4, 6), "float32"),))
    names = [str(node.target) for node in gpu.graph.nodes if node.op == "call_function"]
    assert names == [op.name for op in gpu.trace.ops]
    check(gpu.trace)
    assert y.shape == (4, 6)


def test_what_failed_for_memory_fits_once_something_is_deleted() -> None:
    with card(memory=30 * MIB) as gpu:
        raise_out_of_memory(gpu)
        big = torch.zeros(20 * MIB, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.zeros(20 * MIB, dtype=torch.uint8, device="cuda")
        del big
        again = torch.zeros(20 * MIB, dtype=torch.uint8, device="cuda")
    assert left(gpu.trace) == [f"zeros {20 * MIB}"]
    assert again.numel() == 20 * MIB
    check(gpu.trace)


def test_an_op_that_is_known_and_fails_is_in_the_graph_without_a_result() -> None:
    with card(memory=30 * MIB) as gpu:
        raise_out_of_memory(gpu)
        big = torch.zeros(3 * MIB, dtype=torch.float32, device="cuda")  # 12 MiB
        second = big.exp()
        failed = len(gpu.recorder.ops)
        assert raises_out_of_memory(lambda: big.exp())
    assert [len(op.outputs) for op in gpu.trace.ops[failed - 1 :]] == [1, 0]
    assert gpu.trace.ops[failed].inputs == gpu.trace.ops[failed - 1].inputs
    assert list(gpu.graph.nodes)[-2].meta["shape"] == ()
    assert second.shape == big.shape


@pytest.mark.parametrize(("grad", "memory", "told"), [(True, 52, "activations"), (False, 47, "temporaries")])
def test_what_a_refused_forward_had_saved_is_an_activation(grad: bool, memory: int, told: str) -> None:
    """Weights, batch and cuBLAS take 24 MiB, each layer's output 8: the fourth is refused; without gradients, where the
    input of a layer goes as soon as it is done, the second."""
    layers = nn.Sequential(nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 1024), nn.Tanh())
    with card(memory=memory * MIB) as gpu:
        raise_out_of_memory(gpu)
        model, batch = layers.cuda(), torch.empty(2048, 1024, device="cuda")
        with torch.set_grad_enabled(grad):
            assert raises_out_of_memory(lambda: model(batch))
    made = [buffer.category.value for buffer in gpu.trace.buffers if buffer.size == 8 * MIB][1:]
    assert made and set(made) == {told}
    check(gpu.trace)
