"""Recommenders: embedding bags with sparse gradients and SparseAdam, DLRM interactions, a two-tower net with in-batch negatives, Adagrad."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Dlrm(nn.Module):
    def __init__(self, sizes=(100000, 50000, 20000, 500), d=32):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(n, d, mode="sum", sparse=True) for n in sizes)
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, d), nn.ReLU())
        n = len(sizes) + 1
        self.top = nn.Sequential(
            nn.Linear(d + n * (n - 1) // 2, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
        )

    def forward(self, dense, ids, offsets):
        x = self.bottom(dense)
        t = torch.stack([x] + [bag(i, o) for bag, i, o in zip(self.bags, ids, offsets, strict=False)], 1)
        z = torch.bmm(t, t.transpose(1, 2))
        rows, cols = torch.tril_indices(t.shape[1], t.shape[1], -1, device=z.device)
        return self.top(torch.cat([x, z[:, rows, cols]], 1)).squeeze(1)


model = Dlrm().cuda()
sparse = torch.optim.SparseAdam(list(model.bags.parameters()), 1e-3)
dense = torch.optim.Adagrad([*model.bottom.parameters(), *model.top.parameters()], 1e-2)
n = 4096
for step in range(3):
    ids = [torch.randint(0, bag.num_embeddings, (n * 5,)).cuda() for bag in model.bags]
    offsets = [torch.arange(0, n * 5, 5).cuda() for _ in model.bags]
    out = model(torch.randn(n, 13).cuda(), ids, offsets)
    loss = F.binary_cross_entropy_with_logits(out, torch.randint(0, 2, (n,)).float().cuda())
    sparse.zero_grad()
    dense.zero_grad()
    loss.backward()
    sparse.step()
    dense.step()
print("dlrm", loss.item())


class Tower(nn.Module):
    def __init__(self, n, d=128):
        super().__init__()
        self.embed, self.net = (
            nn.Embedding(n, d),
            nn.Sequential(nn.Linear(d, 512), nn.ReLU(), nn.LayerNorm(512), nn.Linear(512, d)),
        )

    def forward(self, ids):
        return F.normalize(self.net(self.embed(ids)), dim=-1)


users, items = Tower(60000).cuda(), Tower(30000).cuda()
opt = torch.optim.RAdam([*users.parameters(), *items.parameters()], 1e-3)
for step in range(3):
    u, i = (
        users(torch.randint(0, 60000, (3000,), device="cuda")),
        items(torch.randint(0, 30000, (3000,), device="cuda")),
    )
    logits = u @ i.t() / 0.05
    target = torch.arange(3000, device="cuda")
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
    opt.zero_grad()
    loss.backward()
    opt.step()
with torch.no_grad():
    scores = users(torch.arange(256, device="cuda")) @ items(torch.arange(30000, device="cuda")).t()
    top = scores.topk(50, dim=1)
print("towers", loss.item(), top.indices.shape)
