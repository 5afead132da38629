"""NeRF with hierarchical sampling and cumulative products, in chunks at evaluation; a neural ODE by RK4 with an adjoint in an autograd.Function."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


def encode(x, n):
    return torch.cat([x] + [f(2.0**i * x) for i in range(n) for f in (torch.sin, torch.cos)], -1)


class Field(nn.Module):
    def __init__(self, d=256):
        super().__init__()
        self.a, self.b = (
            nn.Sequential(nn.Linear(63, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU()),
            nn.Sequential(nn.Linear(d + 63, d), nn.ReLU(), nn.Linear(d, d)),
        )
        self.sigma, self.rgb = (
            nn.Linear(d, 1),
            nn.Sequential(nn.Linear(d + 27, d // 2), nn.ReLU(), nn.Linear(d // 2, 3), nn.Sigmoid()),
        )

    def forward(self, x, d):
        p = encode(x, 10)
        h = self.b(torch.cat([self.a(p), p], -1))
        return F.softplus(self.sigma(h)).squeeze(-1), self.rgb(torch.cat([h, encode(d, 4)], -1))


def render(net, o, d, t):
    sigma, rgb = net(o[:, None] + d[:, None] * t[..., None], d[:, None].expand(-1, t.shape[1], -1))
    delta = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], -1)
    alpha = 1 - torch.exp(-sigma * delta)
    weights = alpha * torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], -1), -1)[:, :-1]
    return (weights[..., None] * rgb).sum(1), weights


def finer(t, weights, n):
    mids, pdf = 0.5 * (t[:, 1:] + t[:, :-1]), (weights[:, 1:-1] + 1e-5)
    cdf = torch.cumsum(pdf / pdf.sum(-1, keepdim=True), -1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], -1)
    u = torch.rand(len(t), n, device=t.device)
    at = torch.searchsorted(cdf, u, right=True)
    low, high = (at - 1).clamp(min=0), at.clamp(max=cdf.shape[-1] - 1)
    c0, c1, b0, b1 = cdf.gather(1, low), cdf.gather(1, high), mids.gather(1, low), mids.gather(1, high)
    gap = torch.where(c1 - c0 < 1e-5, torch.ones_like(c0), c1 - c0)
    return torch.sort(torch.cat([t, b0 + (u - c0) / gap * (b1 - b0)], -1), -1).values


coarse, fine = Field().cuda(), Field().cuda()
optimizer = torch.optim.Adam([*coarse.parameters(), *fine.parameters()], 5e-4)
for step in range(2):
    o, d, rgb = (
        torch.randn(1024, 3, device="cuda"),
        F.normalize(torch.randn(1024, 3, device="cuda"), dim=-1),
        torch.rand(1024, 3, device="cuda"),
    )
    t = torch.linspace(2, 6, 48, device="cuda").expand(1024, 48) + torch.rand(1024, 48, device="cuda") * 0.08
    first, weights = render(coarse, o, d, t)
    second, _ = render(fine, o, d, finer(t, weights.detach(), 64))
    loss = F.mse_loss(first, rgb) + F.mse_loss(second, rgb)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    picture = torch.cat([render(fine, o[i : i + 256], d[i : i + 256], t[i : i + 256])[0] for i in range(0, 1024, 256)])
print("nerf", loss.item(), picture.shape)
del coarse, fine, optimizer, first, second, weights, loss, picture


class Ode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f, x, steps, *params):
        with torch.no_grad():
            for _ in range(steps):
                x = rk4(f, x, 1 / steps)
        ctx.f, ctx.steps = f, steps
        ctx.save_for_backward(x, *params)
        return x

    @staticmethod
    def backward(ctx, g):
        x, *params = ctx.saved_tensors
        total = [torch.zeros_like(p) for p in params]
        for _ in range(ctx.steps):
            with torch.no_grad():
                x = rk4(ctx.f, x, -1 / ctx.steps)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                grads = torch.autograd.grad(rk4(ctx.f, leaf, 1 / ctx.steps), (leaf, *params), g)
            g, total = grads[0], [a + b for a, b in zip(total, grads[1:], strict=False)]
        return None, g, None, *total


def rk4(f, x, h):
    a = f(x)
    b = f(x + h / 2 * a)
    c = f(x + h / 2 * b)
    return x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c))


f = nn.Sequential(nn.Linear(512, 1024), nn.Tanh(), nn.Linear(1024, 512)).cuda()
opt = torch.optim.Adamax(f.parameters(), 1e-3)
for step in range(2):
    y = Ode.apply(f, torch.randn(4096, 512, device="cuda", requires_grad=True), 6, *f.parameters())
    loss = (y - 1).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
print("ode", loss.item())
