"""A VQ-VAE with a codebook by moving averages and straight-through gradients, a RealNVP with checkerboard masks,
a Glow-like step with an LU convolution, an energy model by Langevin steps."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Quantizer(nn.Module):
    def __init__(self, n=256, d=64):
        super().__init__()
        self.register_buffer("codes", torch.randn(n, d))
        self.register_buffer("count", torch.zeros(n))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, z):
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        d = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.codes.T + self.codes.pow(2).sum(1)
        index = d.argmin(1)
        hot = F.one_hot(index, len(self.codes)).type(flat.dtype)
        q = (hot @ self.codes).view(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
        if self.training:
            with torch.no_grad():
                self.count.mul_(0.99).add_(hot.sum(0), alpha=0.01)
                self.sums.mul_(0.99).add_(hot.T @ flat, alpha=0.01)
                total = self.count.sum()
                self.codes.copy_(self.sums / ((self.count + 1e-5) / (total + len(self.codes) * 1e-5) * total)[:, None])
        loss = F.mse_loss(z, q.detach())
        mean = hot.mean(0)
        return z + (q - z).detach(), loss, torch.exp(-(mean * (mean + 1e-10).log()).sum())


encoder = nn.Sequential(
    nn.Conv2d(3, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU(), nn.Conv2d(128, 64, 1)
).cuda()
decoder = nn.Sequential(nn.ConvTranspose2d(64, 128, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(128, 3, 4, 2, 1)).cuda()
quantizer = Quantizer().cuda()
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-4)
for step in range(3):
    x = torch.rand(32, 3, 64, 64, device="cuda")
    q, loss, perplexity = quantizer(encoder(x))
    loss = F.mse_loss(decoder(q), x) + 0.25 * loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item(), perplexity.item())
del encoder, decoder, quantizer, optimizer, q, loss, x


class Coupling(nn.Module):
    def __init__(self, c, flip):
        super().__init__()
        self.net = nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(c, 64, 3, padding=1)),
            nn.ReLU(),
            nn.Conv2d(64, 64, 1),
            nn.ReLU(),
            nn.Conv2d(64, 2 * c, 3, padding=1),
        )
        self.register_buffer(
            "mask", (torch.arange(32)[:, None] + torch.arange(32)[None] + flip).remainder(2).float()[None, None]
        )

    def forward(self, x):
        s, t = self.net(x * self.mask).chunk(2, 1)
        s, t = torch.tanh(s) * (1 - self.mask), t * (1 - self.mask)
        return x * s.exp() + t, s.flatten(1).sum(1)


class LU(nn.Module):
    def __init__(self, c):
        super().__init__()
        p, l, u = torch.linalg.lu(torch.linalg.qr(torch.randn(c, c))[0])
        self.register_buffer("p", p)
        self.l, self.u, self.s = nn.Parameter(l), nn.Parameter(u.triu(1)), nn.Parameter(u.diagonal().abs().log())
        self.register_buffer("sign", u.diagonal().sign())

    def forward(self, x):
        w = (
            self.p
            @ (self.l.tril(-1) + torch.eye(len(self.s), device=x.device))
            @ (self.u.triu(1) + torch.diag(self.sign * self.s.exp()))
        )
        return F.conv2d(x, w[:, :, None, None]), self.s.sum() * x.shape[2] * x.shape[3]


flow = nn.ModuleList([m for i in range(6) for m in (LU(12), Coupling(12, i % 2))]).cuda()
optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
for step in range(3):
    z, logdet = torch.randn(16, 12, 32, 32, device="cuda"), 0
    for part in flow:
        z, d = part(z)
        logdet = logdet + d
    loss = -(torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1) + logdet).mean() / (12 * 32 * 32)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(flow.parameters(), 100.0)
    optimizer.step()
print(loss.item())
del flow, optimizer, z, logdet, loss
energy = nn.Sequential(
    nn.Conv2d(3, 32, 3, 2, 1),
    nn.SiLU(),
    nn.Conv2d(32, 64, 3, 2, 1),
    nn.SiLU(),
    nn.Conv2d(64, 128, 3, 2, 1),
    nn.SiLU(),
    nn.Flatten(),
    nn.Linear(128 * 64, 1),
).cuda()
optimizer = torch.optim.Adam(energy.parameters(), 1e-4)
buffer = torch.rand(256, 3, 64, 64)
for step in range(2):
    index = torch.randint(0, 256, (32,))
    x = buffer[index].cuda().requires_grad_()
    for p in energy.parameters():
        p.requires_grad_(False)
    for _ in range(8):
        (grad,) = torch.autograd.grad(energy(x).sum(), x)
        x = (x - 10 * grad.clamp(-0.03, 0.03) + 0.005 * torch.randn_like(x)).clamp(0, 1).detach().requires_grad_()
    for p in energy.parameters():
        p.requires_grad_(True)
    buffer[index] = x.detach().cpu()
    real = torch.rand(32, 3, 64, 64, device="cuda")
    a, b = energy(real), energy(x.detach())
    loss = (a - b).mean() + 0.1 * (a**2 + b**2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
