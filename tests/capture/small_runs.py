"""Small runs of many kinds, as an H200 ran them: see `test_small_runs.py`. Each returns what is to stay alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

D, M = "cuda", 2**20


def mlp() -> nn.Sequential:
    layers = [layer for _ in range(4) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 1024)).to(D)


def rows() -> Tensor:
    return torch.randn(256, 1024, device=D)


def warmed(run: Callable[[], object]) -> None:
    """As torch's pages on graphs say: three times, on a stream beside."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)


def cuda_graph_inference() -> object:
    model, x = mlp(), rows()
    with torch.no_grad():
        warmed(lambda: model(x))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        graph.replay()
        z = model(x)
    return model, x, y, z, graph


def cuda_graph_shared_pool() -> object:
    model, x = mlp(), rows()
    with torch.no_grad():
        warmed(lambda: model(x))
        first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(first):
            y = model(x)
        with torch.cuda.graph(second, pool=first.pool()):
            z = model(y)
    return model, x, y, z, first, second


def cuda_graph_freed() -> object:
    model, x = mlp(), rows()
    with torch.no_grad():
        warmed(lambda: model(x))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        graph.replay()
        del y, graph
        torch.cuda.empty_cache()
    return model, x, torch.empty(4 * M, device=D)


def cuda_graph_training() -> object:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, target = rows(), rows()

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    warmed(step)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
    for _ in range(3):
        x.copy_(rows())
        graph.replay()
    return model, optimizer, x, target, loss, graph


def mem_pool() -> object:
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        inside = torch.empty(3 * M, device=D)
    return pool, inside, torch.empty(3 * M, device=D)


def threads() -> object:
    model = mlp()
    with ThreadPoolExecutor(1) as pool:
        moved = list(pool.map(lambda n: torch.ones(n * M).to(device=D, dtype=torch.bfloat16), range(1, 5)))

    def train() -> None:
        model(rows()).square().mean().backward()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    train()
    return model, moved


def inference_mode() -> object:
    model, x = mlp(), rows()
    for _ in range(2):
        model(x).square().mean().backward()
        with torch.inference_mode():
            y = model(x).detach() + x.detach()
    return model, x, y


class Times(torch.autograd.Function):
    """A product with a weight of two values a byte."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scale: Tensor, n: int) -> Tensor:
        ctx.weight = packed, scale, n
        return x @ dequantised(packed, scale, n).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad @ dequantised(*ctx.weight), None, None, None


def dequantised(packed: Tensor, scale: Tensor, n: int) -> Tensor:
    codes = torch.stack([packed // 16, packed % 16], dim=2).reshape(scale.shape[0], 64)
    return ((codes.to(torch.bfloat16) - 8) / 7 * scale.to(torch.bfloat16)).reshape(n, n)


class Linear4(nn.Module):
    """A quantised layer with LoRA."""

    def __init__(self, n: int) -> None:
        super().__init__()
        blocks = torch.randn(n, n, device=D).reshape(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-8)
        codes = ((blocks / scale) * 7 + 8).round().to(torch.uint8)
        self.weight = nn.Parameter((codes[:, ::2] * 16 + codes[:, 1::2]).contiguous(), requires_grad=False)
        self.scale, self.n = scale, n
        self.down, self.up = nn.Linear(n, 8, bias=False), nn.Linear(8, n, bias=False)

    def forward(self, x: Tensor) -> Any:
        return Times.apply(x, self.weight, self.scale, self.n) + self.up(self.down(x))


def quantised_lora() -> object:
    model = nn.Sequential(*(Linear4(2048) for _ in range(4))).to(D)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for _ in range(2):
        with torch.autocast(D, torch.bfloat16):
            model(torch.randn(64, 2048, device=D, dtype=torch.bfloat16)).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def cache_by_cat() -> object:
    """Generation with keys and values that grow by `torch.cat`."""
    heads, width, bf16 = 16, 64, torch.bfloat16
    layers = [nn.Linear(heads * width, 3 * heads * width, bias=False, device=D, dtype=bf16) for _ in range(8)]
    cache: list[Any] = [None] * 8
    with torch.no_grad():
        x = torch.randn(8, 512, heads * width, device=D, dtype=bf16)
        for _ in range(32):
            for i, layer in enumerate(layers):
                q, k, v = (part.unflatten(-1, (heads, width)).transpose(1, 2) for part in layer(x).chunk(3, -1))
                causal = cache[i] is None
                if not causal:
                    k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
                cache[i] = (k, v)
                x = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
            x = x[:, -1:]
    return cache


def detection_heads() -> object:
    """Five levels: the best thousand, a threshold that all pass, boxes by index, a table of overlaps."""
    boxes: Any = []
    scores: Any = []
    with torch.no_grad():
        for height, width in [(200, 304), (100, 152), (50, 76), (25, 38), (13, 19)]:
            logits = torch.rand(height * width * 3, device=D) + 1
            deltas = torch.randn(height * width * 3, 4, device=D)
            best, places = logits.topk(min(1000, len(logits)))
            keep = (best > 0.5).nonzero().squeeze(1)
            boxes.append(deltas[places[keep]])
            scores.append(best[keep])
        boxes, scores = torch.cat(boxes), torch.cat(scores)
        corner = (
            torch.maximum(boxes[:, None, :2], boxes[None, :, :2]), torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        )  # fmt: skip
        overlap = (corner[1] - corner[0]).clamp(min=0).prod(-1)
        return boxes[scores.topk(100).indices], overlap


def balanced_scores(count: int, experts: int, each: int) -> Tensor:
    """Row t prefers experts t·each, t·each + 1, … (mod experts)."""
    scores = torch.randn(count, experts, device=D) * 0.01
    best = (torch.arange(count, device=D)[:, None] * each + torch.arange(each, device=D)) % experts
    return scores.scatter_add(1, best, torch.full(best.shape, 5.0, device=D) - torch.arange(each, device=D) * 0.5)


def routed_masks() -> object:
    """1000 rows over 7 experts: 142 or 143 each."""
    layers = nn.ModuleList(nn.Linear(2048, 2048) for _ in range(7)).to(D)
    x, scores = torch.randn(1000, 2048, device=D), balanced_scores(1000, 7, 1)
    with torch.no_grad():
        chosen = scores.argmax(-1)
        return [layers[i](x[chosen == i]) for i in range(7)]


def kernel() -> tuple[Any, Any]:
    """Triton, and a kernel that adds one."""
    import triton
    import triton.language as tl

    @triton.jit
    def add_one(x, o, n, B: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
        i = tl.program_id(0) * B + tl.arange(0, B)
        tl.store(o + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)

    return triton, add_one


def triton_kernel() -> object:
    _, add_one = kernel()
    x = torch.zeros(M, device=D)
    for _ in range(3):
        o = torch.empty_like(x)
        add_one[(M // 1024,)](x, o, M, B=1024)
        x = o
    return x


def tuned(calls: int, **how: Any) -> object:
    triton, add_one = kernel()
    configs = [triton.Config({"B": b}, num_warps=w) for b, w in ((256, 4), (1024, 8))]
    run = triton.autotune(configs=configs, key=["n"], **how)(add_one)
    x, o = torch.zeros(M, device=D), torch.empty(M, device=D)
    for _ in range(calls):
        run[lambda meta: (triton.cdiv(M, meta["B"]),)](x, o, M)
    return x, o


def triton_autotuned() -> object:
    return tuned(2)


def triton_autotuned_restored() -> object:
    return tuned(1, restore_value=["o"])


def triton_in_autograd() -> object:
    _, add_one = kernel()

    class AddOne(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            out = torch.empty_like(x)
            add_one[(x.numel() // 1024,)](x, out, x.numel(), B=1024)
            return out

        @staticmethod
        def backward(_ctx: Any, grad: Tensor) -> Tensor:
            return grad.clone()

    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        AddOne.apply(model(rows())).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer
