"""Classic machine learning on the card: a Gaussian process by Cholesky, k-means, normalising flows with slogdet, a CRF with Viterbi, kNN, PCA."""

import torch
import torch.nn as nn

torch.manual_seed(0)
x, y = torch.rand(1500, 4, device="cuda"), torch.randn(1500, device="cuda")
scale, noise, amp = (torch.zeros((), device="cuda", requires_grad=True) for _ in range(3))
optimizer = torch.optim.Adam([scale, noise, amp], 0.1)
for step in range(3):
    k = amp.exp() * torch.exp(-0.5 * torch.cdist(x, x).pow(2) / scale.exp()) + (noise.exp() + 1e-3) * torch.eye(
        1500, device="cuda"
    )
    chol = torch.linalg.cholesky(k)
    alpha = torch.cholesky_solve(y[:, None], chol)
    loss = 0.5 * (y @ alpha).squeeze() + chol.diagonal().log().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("gp", loss.item())
points = torch.randn(100_000, 32, device="cuda")
centres = points[torch.randperm(100_000, device="cuda")[:64]].clone()
for step in range(5):
    nearest = torch.cdist(points, centres).argmin(1)
    sums = torch.zeros_like(centres).index_add_(0, nearest, points)
    counts = torch.bincount(nearest, minlength=64).clamp(min=1)
    moved = sums / counts[:, None]
    shift = (moved - centres).norm(dim=1).max()
    centres = moved
    if shift.item() < 1e-4:
        break
print("kmeans", centres.shape)
u, s, v = torch.pca_lowrank(points, q=8)
print("pca", (points @ v).shape, torch.cdist(points[:2000], points[:20000]).topk(5, largest=False).indices.shape)


class Flow(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.w, self.net = (
            nn.Parameter(torch.linalg.qr(torch.randn(d, d))[0]),
            nn.Sequential(nn.Linear(d // 2, 512), nn.ReLU(), nn.Linear(512, d)),
        )

    def forward(self, z):
        z = z @ self.w
        a, b = z.chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        s = torch.tanh(s)
        return torch.cat([a, b * s.exp() + t], 1), s.sum(1) + torch.linalg.slogdet(self.w)[1]


flows = nn.ModuleList(Flow() for _ in range(6)).cuda()
opt = torch.optim.Adam(flows.parameters(), 1e-3)
for step in range(2):
    z, logdet = torch.randn(8192, 64, device="cuda"), 0
    for f in flows:
        z, d = f(z)
        logdet = logdet + d
    loss = (0.5 * z.pow(2).sum(1) - logdet).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
print("flow", loss.item())
tags, trans = 24, nn.Parameter(torch.randn(24, 24, device="cuda"))
emit = nn.LSTM(64, 128, bidirectional=True, batch_first=True).cuda()
head = nn.Linear(256, tags).cuda()
opt = torch.optim.SGD([trans, *emit.parameters(), *head.parameters()], 0.1)
for step in range(2):
    h = head(emit(torch.randn(32, 50, 64, device="cuda"))[0])
    gold = torch.randint(0, tags, (32, 50), device="cuda")
    score = h.gather(2, gold[..., None]).sum((1, 2)) + trans[gold[:, :-1], gold[:, 1:]].sum(1)
    a = h[:, 0]
    for t in range(1, 50):
        a = torch.logsumexp(a[:, :, None] + trans[None] + h[:, t][:, None], 1)
    loss = (torch.logsumexp(a, 1) - score).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
with torch.no_grad():
    best, back = h[:, 0], []
    for t in range(1, 50):
        m, i = (best[:, :, None] + trans[None]).max(1)
        best = m + h[:, t]
        back.append(i)
    path = [best.argmax(1)]
    for i in reversed(back):
        path.insert(0, i.gather(1, path[0][:, None]).squeeze(1))
print("crf", loss.item(), torch.stack(path, 1).shape)
