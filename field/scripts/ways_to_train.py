"""Ways people train in plain PyTorch, each with its own peak: optimizers, checkpointing, accumulation, losses."""

import gc
import json

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.n, self.a, self.m = (
            nn.LayerNorm(d),
            nn.MultiheadAttention(d, 8, batch_first=True),
            nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)),
        )

    def forward(self, x):
        y = self.n(x)
        x = x + self.a(y, y, y, need_weights=False)[0]
        return x + self.m(x)


def net(d=512, n=4):
    return nn.Sequential(*[Block(d) for _ in range(n)], nn.Linear(d, 1000)).cuda()


def step(model, optimizer, x, amp=None, run=None):
    with torch.autocast("cuda", amp or torch.bfloat16, enabled=amp is not None):
        loss = nn.functional.cross_entropy(
            (run or model)(x).flatten(0, 1), torch.zeros(x.shape[0] * x.shape[1], dtype=torch.long, device="cuda")
        )
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def case(name, **k):
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    m = net()
    o = k.get("opt", lambda p: torch.optim.AdamW(p))(m.parameters())
    x = torch.randn(8, 256, 512, device="cuda")
    if k.get("dtype"):
        m, x = m.to(k["dtype"]), x.to(k["dtype"])
    for _ in range(2):
        step(m, o, x, k.get("amp"), k.get("run", lambda m: None)(m))
    s = torch.cuda.memory_stats()
    print(
        "case:",
        json.dumps(
            {
                "name": name,
                "requested": s["requested_bytes.all.peak"],
                "allocated": s["allocated_bytes.all.peak"],
                "reserved": s["reserved_bytes.all.peak"],
            }
        ),
        flush=True,
    )


O = torch.optim
case("adamw fp32")
case("adamw bf16 autocast", amp=torch.bfloat16)
case("fp16", amp=torch.float16)
case("pure bf16", dtype=torch.bfloat16)
for n, f in {
    "fused": lambda p: O.AdamW(p, fused=True),
    "single": lambda p: O.AdamW(p, foreach=False),
    "sgd": lambda p: O.SGD(p, 0.1),
    "momentum": lambda p: O.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adafactor": lambda p: O.Adafactor(p),
    "rmsprop": lambda p: O.RMSprop(p),
    "adagrad": lambda p: O.Adagrad(p),
    "amsgrad": lambda p: O.Adam(p, amsgrad=True),
    "nadam": lambda p: O.NAdam(p),
    "radam": lambda p: O.RAdam(p),
    "lamb-like adamax": lambda p: O.Adamax(p),
    "muon-less adadelta": lambda p: O.Adadelta(p),
}.items():
    case(n, opt=f)


def chk(m):
    def run(x):
        for b in m[:-1]:
            x = checkpoint(b, x, use_reentrant=False)
        return m[-1](x)

    return run


case("checkpoint", run=chk)
case("checkpoint amp", run=chk, amp=torch.bfloat16)
