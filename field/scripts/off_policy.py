"""SAC and a DQN with a replay buffer on the card, target networks by Polyak, tanh-squashed Gaussians, prioritised sampling."""

import copy

import torch
import torch.nn as nn

torch.manual_seed(0)
device = "cuda"


class Replay:
    def __init__(self, size, obs, act):
        self.o, self.n = (torch.zeros(size, obs, device=device) for _ in range(2))
        self.a, self.r, self.d = (
            torch.zeros(size, act, device=device),
            torch.zeros(size, device=device),
            torch.zeros(size, dtype=torch.bool, device=device),
        )
        self.priority, self.at, self.full, self.size = torch.zeros(size, device=device), 0, False, size

    def add(self, o, a, r, n, d):
        rows = torch.arange(self.at, self.at + len(o), device=device) % self.size
        self.o[rows], self.a[rows], self.r[rows], self.n[rows], self.d[rows], self.priority[rows] = o, a, r, n, d, 1.0
        self.at = (self.at + len(o)) % self.size

    def sample(self, k):
        rows = torch.multinomial(self.priority + 1e-6, k, replacement=True)
        return rows, self.o[rows], self.a[rows], self.r[rows], self.n[rows], self.d[rows]


class Actor(nn.Module):
    def __init__(self, obs, act):
        super().__init__()
        self.net, self.mu, self.std = (
            nn.Sequential(nn.Linear(obs, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()),
            nn.Linear(512, act),
            nn.Linear(512, act),
        )

    def forward(self, x):
        h = self.net(x)
        dist = torch.distributions.Normal(self.mu(h), self.std(h).clamp(-5, 2).exp())
        raw = dist.rsample()
        return torch.tanh(raw), (dist.log_prob(raw) - torch.log(1 - torch.tanh(raw).pow(2) + 1e-6)).sum(-1)


def q():
    return nn.Sequential(
        nn.Linear(72, 512), nn.LayerNorm(512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
    ).to(device)


actor, q1, q2, buffer = Actor(64, 8).to(device), q(), q(), Replay(200_000, 64, 8)
t1, t2 = copy.deepcopy(q1), copy.deepcopy(q2)
log_alpha = torch.zeros(1, requires_grad=True, device=device)
opts = [torch.optim.Adam(p, 3e-4) for p in (actor.parameters(), [*q1.parameters(), *q2.parameters()], [log_alpha])]
for step in range(6):
    with torch.no_grad():
        o = torch.randn(4096, 64, device=device)
        a, _ = actor(o)
    buffer.add(
        o,
        a,
        torch.randn(4096, device=device),
        torch.randn(4096, 64, device=device),
        torch.rand(4096, device=device) < 0.05,
    )
    rows, o, a, r, n, d = buffer.sample(1024)
    with torch.no_grad():
        na, logp = actor(n)
        y = r + 0.99 * (~d).float() * (
            torch.min(t1(torch.cat([n, na], -1)), t2(torch.cat([n, na], -1))).squeeze(-1) - log_alpha.exp() * logp
        )
    x = torch.cat([o, a], -1)
    e1, e2 = q1(x).squeeze(-1) - y, q2(x).squeeze(-1) - y
    opts[1].zero_grad()
    (e1.pow(2) + e2.pow(2)).mean().backward()
    opts[1].step()
    buffer.priority[rows] = (e1.abs() + e2.abs()).detach() / 2
    new, logp = actor(o)
    loss = (
        log_alpha.exp().detach() * logp
        - torch.min(q1(torch.cat([o, new], -1)), q2(torch.cat([o, new], -1))).squeeze(-1)
    ).mean()
    opts[0].zero_grad()
    loss.backward()
    opts[0].step()
    opts[2].zero_grad()
    (-log_alpha * (logp.detach() - 8)).mean().backward()
    opts[2].step()
    with torch.no_grad():
        for live, target in ((q1, t1), (q2, t2)):
            torch._foreach_lerp_(list(target.parameters()), list(live.parameters()), 0.005)
    print(step, loss.item(), log_alpha.exp().item())
