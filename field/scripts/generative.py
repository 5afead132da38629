"""A convolutional VAE with a reparametrised latent, then WGAN-GP: gradient penalty by create_graph, five critics a generator, spectral norm."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm

torch.manual_seed(0)


class Vae(nn.Module):
    def __init__(self, z=64):
        super().__init__()
        self.enc = nn.Sequential(
            nn.Conv2d(3, 48, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(48, 96, 4, 2, 1),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.Conv2d(96, 192, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.mu, self.var, self.up = nn.Linear(192 * 64, z), nn.Linear(192 * 64, z), nn.Linear(z, 192 * 64)
        self.dec = nn.Sequential(
            nn.ConvTranspose2d(192, 96, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(96, 48, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(48, 3, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        h = self.enc(x)
        mu, var = self.mu(h), self.var(h)
        z = mu + torch.exp(0.5 * var) * torch.randn_like(var)
        return self.dec(self.up(z).view(-1, 192, 8, 8)), mu, var


vae = Vae().cuda()
optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
for step in range(3):
    x = torch.rand(64, 3, 64, 64).cuda()
    out, mu, var = vae(x)
    loss = F.binary_cross_entropy(out, x, reduction="sum") - 0.5 * torch.sum(1 + var - mu.pow(2) - var.exp())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("vae", loss.item())
del vae, optimizer, out, mu, var, loss
generator = nn.Sequential(
    nn.ConvTranspose2d(100, 256, 4, 1, 0),
    nn.BatchNorm2d(256),
    nn.ReLU(True),
    nn.ConvTranspose2d(256, 128, 4, 2, 1),
    nn.BatchNorm2d(128),
    nn.ReLU(True),
    nn.ConvTranspose2d(128, 64, 4, 2, 1),
    nn.BatchNorm2d(64),
    nn.ReLU(True),
    nn.ConvTranspose2d(64, 3, 4, 2, 1),
    nn.Tanh(),
).cuda()
critic = nn.Sequential(
    nn.Conv2d(3, 64, 4, 2, 1),
    nn.LeakyReLU(0.2, True),
    spectral_norm(nn.Conv2d(64, 128, 4, 2, 1)),
    nn.InstanceNorm2d(128, affine=True),
    nn.LeakyReLU(0.2, True),
    spectral_norm(nn.Conv2d(128, 256, 4, 2, 1)),
    nn.LeakyReLU(0.2, True),
    nn.Conv2d(256, 1, 4),
).cuda()
g_opt, c_opt = (torch.optim.RMSprop(m.parameters(), 5e-5) for m in (generator, critic))
for step in range(4):
    real = torch.randn(64, 3, 32, 32, device="cuda")
    for p in critic.parameters():
        p.requires_grad_(True)
    fake = generator(torch.randn(64, 100, 1, 1, device="cuda")).detach()
    alpha = torch.rand(64, 1, 1, 1, device="cuda")
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    grads = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True, retain_graph=True)[0]
    penalty = ((grads.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
    c_loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
    c_opt.zero_grad()
    c_loss.backward()
    c_opt.step()
    if step % 2 == 1:
        for p in critic.parameters():
            p.requires_grad_(False)
        g_loss = -critic(generator(torch.randn(64, 100, 1, 1, device="cuda"))).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
print("wgan", c_loss.item(), g_loss.item())
