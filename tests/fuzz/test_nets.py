"""Random nets, for real on the CPU and on the virtual GPU: shapes and types agree, bytes add up, nothing is left."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import memgraph
from tests.fuzzing import seeds

BLOCK = 512
"""Bytes to which torch's allocator rounds."""

Layer = Callable[[random.Random, int], nn.Module]


class Changed(nn.Module):
    """A function of the result, for what has no module."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


class Beside(nn.Module):
    """Two ways that meet again."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)


CHANGES: list[Callable[[Tensor], Tensor]] = [
    torch.relu, torch.tanh, F.gelu, F.silu, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    lambda x: x.flip(1), lambda x: x.softmax(-1), lambda x: x * x.mean(),
    lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    lambda x: x.double().float(), lambda x: x.clamp(-1, 1), lambda x: x.masked_fill(x > 0, 0.5),
    lambda x: x.cumsum(-1),
    lambda x: x.sort(-1).values, lambda x: x[:, torch.arange(x.shape[1], device=x.device)], lambda x: x.exp().log1p(),
    lambda x: torch.stack([x, -x]).sum(0), lambda x: x.unsqueeze(1).expand(-1, 3, -1).mean(1),
    lambda x: F.dropout(x, 0.1),
]  # fmt: skip

LAYERS: list[Layer] = [
    lambda _r, width: nn.Linear(width, width),
    lambda r, width: nn.Sequential(nn.Linear(width, 3 * width, bias=r.random() < 0.5), nn.Linear(3 * width, width)),
    lambda _r, width: nn.LayerNorm(width),
    lambda _r, width: nn.BatchNorm1d(width),
    lambda r, _width: Changed(r.choice(CHANGES)),
    lambda r, width: Beside(net(r, width, 1), net(r, width, 1)),
    lambda _r, width: nn.Sequential(
        nn.Unflatten(1, (1, width)), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * width, width)
    ),
]  # fmt: skip

OPTIMIZERS: list[Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = [
    torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), torch.optim.RMSprop, torch.optim.Adagrad,
]  # fmt: skip


def net(r: random.Random, width: int, depth: int) -> nn.Module:
    return nn.Sequential(*[r.choice(LAYERS)(r, width) for _ in range(depth)])


def trained(seed: int, device: str) -> tuple[list[object], Tensor, nn.Module, torch.optim.Optimizer]:
    """Two steps of a random net. What was seen: shapes and types of results, gradients and optimizer state."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    width, batch = r.choice([1, 2, 3, 8, 17, 64]), r.choice([2, 3, 8, 33])
    model = net(r, width, r.randint(1, 5)).append(nn.Linear(width, 1)).to(device)  # type: ignore[operator]
    optimizer = r.choice(OPTIMIZERS)(list(model.parameters()))
    seen: list[object] = []
    for _ in range(2):
        result = model(torch.randn(batch, width, device=device))
        loss = result.square().mean()
        loss.backward()
        optimizer.step()
        seen += [look(result), look(loss), *(look(p.grad) for p in model.parameters())]
        optimizer.zero_grad(set_to_none=r.random() < 0.5)
    states = [optimizer.state[p] for p in model.parameters() if p in optimizer.state]
    seen += [
        (name, look(value)) for state in states for name, value in sorted(state.items()) if isinstance(value, Tensor)
    ]
    return seen, loss, model, optimizer


def look(tensor: Tensor | None) -> object:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.stride(), tensor.requires_grad)


def held(model: nn.Module, optimizer: torch.optim.Optimizer, *more: Tensor) -> int:
    """Bytes on the device that what is there must hold, each in blocks."""
    tensors = [*model.parameters(), *model.buffers(), *more]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    tensors += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors if t.is_cuda}
    return sum(-(-size // BLOCK) * BLOCK for size in storages.values())


def check(seed: int) -> str:
    """One net. What is wrong names its seed; else in a word what came of it."""
    real, *_ = trained(seed, "cpu")
    with memgraph.virtual_gpu("rtx3090") as gpu:
        seen, loss, model, optimizer = trained(seed, "cuda")
        del loss
        gc.collect()
        live, wanted = torch.cuda.memory_allocated(), held(model, optimizer)
        libraries = sum(-(-b.size // BLOCK) * BLOCK for b in gpu.trace.buffers if b.role.value == "library")
        assert live == wanted + libraries, f"seed {seed}: {live} bytes are allocated, {wanted} held, {libraries} kept"
    assert seen == real, f"seed {seed}"
    gpu.trace.self_check()
    return "alike"


@pytest.mark.parametrize("part", range(4))
def test_a_random_net_is_on_the_virtual_gpu_what_it_is_on_the_cpu(part: int) -> None:
    for seed in seeds(3, 1000 * part):
        check(seed)
