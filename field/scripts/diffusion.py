"""DDPM as in the annotated tutorials: U-Net with attention and group norm, EMA, cosine betas, then sampling."""

import copy
import itertools
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Time(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.d = d

    def forward(self, t):
        half = self.d // 2
        f = torch.exp(torch.arange(half, device=t.device) * -(math.log(10000) / (half - 1)))
        a = t[:, None].float() * f[None]
        return torch.cat([a.sin(), a.cos()], -1)


class Res(nn.Module):
    def __init__(self, a, b, d):
        super().__init__()
        self.n1, self.c1, self.n2, self.c2 = (
            nn.GroupNorm(8, a),
            nn.Conv2d(a, b, 3, padding=1),
            nn.GroupNorm(8, b),
            nn.Conv2d(b, b, 3, padding=1),
        )
        self.t, self.skip = nn.Linear(d, 2 * b), nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x, t):
        h = self.c1(F.silu(self.n1(x)))
        scale, shift = self.t(F.silu(t))[:, :, None, None].chunk(2, 1)
        h = self.n2(h) * (scale + 1) + shift
        return self.c2(F.silu(h)) + self.skip(x)


class Attend(nn.Module):
    def __init__(self, c, heads=4):
        super().__init__()
        self.norm, self.qkv, self.out, self.heads = (
            nn.GroupNorm(1, c),
            nn.Conv2d(c, 3 * c, 1, bias=False),
            nn.Conv2d(c, c, 1),
            heads,
        )

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        sim = torch.einsum("bhdi,bhdj->bhij", q * (c // self.heads) ** -0.5, k)
        y = torch.einsum("bhij,bhdj->bhid", (sim - sim.amax(-1, keepdim=True).detach()).softmax(-1), v)
        return x + self.out(y.permute(0, 1, 3, 2).reshape(b, c, h, w))


class Unet(nn.Module):
    def __init__(self, c=64, mults=(1, 2, 4)):
        super().__init__()
        d = 4 * c
        self.time = nn.Sequential(Time(c), nn.Linear(c, d), nn.GELU(), nn.Linear(d, d))
        self.first = nn.Conv2d(3, c, 7, padding=3)
        dims = [c] + [c * m for m in mults]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for a, b in itertools.pairwise(dims):
            self.down.append(
                nn.ModuleList([Res(a, a, d), Attend(a) if a > c else nn.Identity(), nn.Conv2d(a, b, 4, 2, 1)])
            )
        self.mid = nn.ModuleList([Res(dims[-1], dims[-1], d), Attend(dims[-1]), Res(dims[-1], dims[-1], d)])
        for a, b in reversed(list(itertools.pairwise(dims))):
            self.up.append(
                nn.ModuleList(
                    [
                        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(b, a, 3, padding=1)),
                        Res(2 * a, a, d),
                        Attend(a) if a > c else nn.Identity(),
                    ]
                )
            )
        self.last = nn.Conv2d(c, 3, 1)

    def forward(self, x, t):
        t, x, kept = self.time(t), self.first(x), []
        for res, att, down in self.down:
            x = att(res(x, t))
            kept.append(x)
            x = down(x)
        x = self.mid[2](self.mid[1](self.mid[0](x, t)), t)
        for up, res, att in self.up:
            x = att(res(torch.cat([up(x), kept.pop()], 1), t))
        return self.last(x)


steps = 100
a = torch.cos((torch.linspace(0, steps, steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
betas = (1 - a[1:] / a[:-1]).clamp(0.0001, 0.999).cuda()
alphas = torch.cumprod(1 - betas, 0)
model = Unet().cuda()
ema = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.Adam(model.parameters(), 2e-4)
for step in range(3):
    x = torch.randn(16, 3, 48, 48, device="cuda")
    t = torch.randint(0, steps, (16,), device="cuda")
    noise = torch.randn_like(x)
    noisy = alphas[t].sqrt()[:, None, None, None] * x + (1 - alphas[t]).sqrt()[:, None, None, None] * noise
    loss = F.smooth_l1_loss(model(noisy, t), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for e, p in zip(ema.parameters(), model.parameters(), strict=False):
            e.lerp_(p, 0.005)
    print(step, loss.item())


@torch.no_grad()
def sample(n):
    x = torch.randn(n, 3, 48, 48, device="cuda")
    for i in reversed(range(0, steps, 10)):
        t = torch.full((n,), i, device="cuda", dtype=torch.long)
        eps = ema(x, t)
        x = (x - betas[i] / (1 - alphas[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
        if i > 0:
            x = x + betas[i].sqrt() * torch.randn_like(x)
    return x.clamp(-1, 1)


print(sample(16).shape)
