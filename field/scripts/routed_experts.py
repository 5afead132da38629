"""Routed experts by hand, a loop over experts with index_add, capacity dropping, auxiliary loss, bf16 autocast."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Expert(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(d, h, bias=False),
            nn.Linear(d, h, bias=False),
            nn.Linear(h, d, bias=False),
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Moe(nn.Module):
    def __init__(self, d=384, h=768, experts=8, k=2):
        super().__init__()
        self.router, self.experts, self.k = (
            nn.Linear(d, experts, bias=False),
            nn.ModuleList(Expert(d, h) for _ in range(experts)),
            k,
        )

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        logits = self.router(flat)
        weights, chosen = torch.topk(F.softmax(logits, dim=-1, dtype=torch.float), self.k)
        weights = (weights / weights.sum(-1, keepdim=True)).to(flat.dtype)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == number)
            out.index_add_(0, rows, (expert(flat[rows]) * weights[rows, slot, None]).to(out.dtype))
        load = F.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        return out.view_as(x), (load * logits.softmax(-1).mean(0)).sum() * len(self.experts)


class Block(nn.Module):
    def __init__(self, d=384):
        super().__init__()
        self.n1, self.att, self.n2, self.moe = (
            nn.LayerNorm(d),
            nn.MultiheadAttention(d, 6, batch_first=True),
            nn.LayerNorm(d),
            Moe(d),
        )

    def forward(self, x):
        h = self.n1(x)
        x = x + self.att(h, h, h, need_weights=False)[0]
        y, aux = self.moe(self.n2(x))
        return x + y, aux


blocks, embed = nn.ModuleList(Block() for _ in range(4)).cuda(), nn.Embedding(4000, 384).cuda()
params = [*blocks.parameters(), *embed.parameters()]
optimizer = torch.optim.AdamW(params, 1e-3)
for step in range(3):
    ids = torch.randint(0, 4000, (8, 256), device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        x, total = embed(ids), 0.0
        for block in blocks:
            x, aux = block(x)
            total = total + aux
        loss = F.cross_entropy((x @ embed.weight.t()).flatten(0, 1).float(), ids.flatten()) + 0.01 * total
    loss.backward()
    nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print(step, loss.item())
