"""A script that fails at any point leaves torch as it was, and the process goes on with real tensors."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_module

import memgraph
from memgraph.capture.recorder import Recorder


class Injected(Exception):
    """The fault."""


OWNERS: Mapping[str, Any] = {
    "torch": torch, "torch.cuda": torch.cuda, "torch.cuda.memory": torch.cuda.memory,
    "torch.cuda.random": torch.cuda.random, "torch.accelerator": torch.accelerator,
    "torch.serialization": torch.serialization, "Tensor": Tensor, "FakeTensor": fake_tensor.FakeTensor,
    "Module": nn.Module, "RNNBase": nn.RNNBase, "torch._C": torch._C, "torch._subclasses": torch._subclasses,
    "comm": torch.nn.parallel.comm, "sdpa": __import__("torch.nested._internal.sdpa", fromlist=["sdpa"]),
}  # fmt: skip
"""Where memgraph replaces names."""


def names() -> dict[tuple[str, str], int]:
    """Every name of these, by identity."""
    return {(where, name): id(value) for where, owner in OWNERS.items() for name, value in vars(owner).items()}


def hooks() -> list[Any]:
    """Hooks, modes and flags."""
    return [
        len(module_hooks._global_forward_pre_hooks), len(module_hooks._global_forward_hooks),
        len(optimizer_module._global_optimizer_pre_hooks), len(optimizer_module._global_optimizer_post_hooks),
        torch._C._len_torch_dispatch_stack(), torch.is_grad_enabled(), torch.is_autocast_enabled("cuda"),
        torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device(),
        torch.cuda.is_available(), gc.isenabled(), list(optimizer_module._foreach_supported_types),
    ]  # fmt: skip


def script() -> None:
    """Something of everything: recurrent, attention, sparse gradients, checkpoints, a scaler, values, files."""
    lstm, head = nn.LSTM(4, 4).cuda(), nn.Linear(4, 4).cuda()
    table = nn.Embedding(9, 4, sparse=True).cuda()
    optimizer = torch.optim.AdamW([*lstm.parameters(), *head.parameters()])
    sparse = torch.optim.SparseAdam(list(table.parameters()))
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(2):
        x = table(torch.arange(6).view(3, 2).cuda())
        with torch.autocast("cuda", torch.float16):
            y = torch.utils.checkpoint.checkpoint(head, lstm(x)[0], use_reentrant=False)
            y = nn.functional.scaled_dot_product_attention(*[y.unsqueeze(0)] * 3)
        loss = y.float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        sparse.step()
        for each in (optimizer, sparse):
            each.zero_grad()
        if loss.item() > 2 or y[y > 0].numel() < 0:
            raise AssertionError("not reached")
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    head.load_state_dict(torch.load(file))
    with torch.inference_mode():
        head(torch.zeros(1, 4, device="cuda"))


def run(fault: Callable[[int], None]) -> int:
    """The script on a virtual GPU, `fault` called before each op with its number; how many there were."""
    count = 0
    original = Recorder.dispatch

    def dispatch(self: Recorder, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        nonlocal count
        if func.namespace == "aten":  # C++ also asks tensors for their device, and takes no exception for an answer
            count += 1
            fault(count)
        return original(self, func, types, args, kwargs)

    with memgraph.virtual_gpu("rtx3090"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "dispatch", dispatch)
        script()
    return count


@pytest.fixture(scope="module")
def ops() -> int:
    """How many ops the script has; the first run also lets torch load what it loads late."""
    run(lambda _count: None)
    return run(lambda _count: None)


def real_step() -> list[float]:
    """A step on real CPU tensors: 3 x², whose gradient at 1, 2, 3 is 6, 12, 18."""
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (3 * x**2).sum().backward()
    assert x.grad is not None
    return x.grad.tolist()


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.sampled_from([Injected, KeyboardInterrupt, SystemExit, torch.cuda.OutOfMemoryError]))
def test_wherever_it_fails_torch_is_as_it_was(ops: int, share: float, kind: type[BaseException]) -> None:
    before, hooks_before = names(), hooks()
    point = 1 + int(share * (ops - 1))

    def fault(count: int) -> None:
        if count == point:
            raise kind("injected")

    with pytest.raises((kind, RuntimeError), match="injected"):  # `load_state_dict` makes one of the other
        run(fault)
    after = names()
    assert sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)) == []
    assert hooks() == hooks_before
    assert real_step() == [6.0, 12.0, 18.0]


def test_the_comparison_sees_what_is_replaced() -> None:
    before = names()
    with memgraph.virtual_gpu("rtx3090"):
        inside = names()
    assert len([key for key in before if before[key] != inside.get(key)]) > 50
