"""A Fourier neural operator in two dimensions with spectral weights, then a physics-informed net with second derivatives."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Spectral(nn.Module):
    def __init__(self, c, modes):
        super().__init__()
        self.modes = modes
        self.a, self.b = (nn.Parameter(torch.rand(c, c, modes, modes, dtype=torch.cfloat) / c**2) for _ in range(2))

    def forward(self, x):
        m, f = self.modes, torch.fft.rfft2(x)
        out = torch.zeros(*x.shape[:2], x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cfloat, device=x.device)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", f[:, :, :m, :m], self.a)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", f[:, :, -m:, :m], self.b)
        return torch.fft.irfft2(out, s=(x.size(-2), x.size(-1)))


class Fno(nn.Module):
    def __init__(self, c=48, modes=12, layers=4):
        super().__init__()
        self.lift = nn.Linear(3, c)
        self.spectral, self.local = (
            nn.ModuleList(Spectral(c, modes) for _ in range(layers)),
            nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(layers)),
        )
        self.project = nn.Sequential(nn.Linear(c, 128), nn.GELU(), nn.Linear(128, 1))

    def forward(self, x):
        grid = torch.stack(
            torch.meshgrid(*(torch.linspace(0, 1, n, device=x.device) for n in x.shape[1:3]), indexing="ij"), -1
        )
        x = self.lift(torch.cat([x, grid.expand(len(x), -1, -1, -1)], -1)).permute(0, 3, 1, 2)
        for s, l in zip(self.spectral, self.local, strict=False):
            x = F.gelu(s(x) + l(x))
        return self.project(x.permute(0, 2, 3, 1))


model = Fno().cuda()
optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
for step in range(3):
    x, y = torch.randn(16, 85, 85, 1, device="cuda"), torch.randn(16, 85, 85, 1, device="cuda")
    diff = torch.norm((model(x) - y).reshape(16, -1), 2, 1) / torch.norm(y.reshape(16, -1), 2, 1)
    optimizer.zero_grad()
    diff.mean().backward()
    optimizer.step()
print("fno", diff.mean().item())
net = nn.Sequential(
    nn.Linear(2, 256), nn.Tanh(), *[m for _ in range(4) for m in (nn.Linear(256, 256), nn.Tanh())], nn.Linear(256, 1)
).cuda()
opt = torch.optim.Adam(net.parameters(), 1e-3)
for step in range(3):
    t, x = (
        torch.rand(8000, 1, device="cuda", requires_grad=True),
        torch.rand(8000, 1, device="cuda", requires_grad=True),
    )
    u = net(torch.cat([t, x], 1))
    ones = torch.ones_like(u)
    u_t = torch.autograd.grad(u, t, ones, create_graph=True)[0]
    u_x = torch.autograd.grad(u, x, ones, create_graph=True)[0]
    u_xx = torch.autograd.grad(u_x, x, ones, create_graph=True)[0]
    loss = (u_t + u * u_x - 0.01 / torch.pi * u_xx).pow(2).mean() + net(torch.rand(500, 2, device="cuda")).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
print("pinn", loss.item())
