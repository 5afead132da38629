"""checkpoint_sequential, selective checkpointing, torch.func: per-sample gradients, jacobians, ensembles by vmap, a Hessian-vector product, MAML."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

torch.manual_seed(0)
deep = nn.Sequential(
    *[nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(12)]
).cuda()
x = torch.randn(16, 64, 64, 64, device="cuda", requires_grad=True)
checkpoint_sequential(deep, 4, x, use_reentrant=False).mean().backward()
checkpoint_sequential(deep, 3, x, use_reentrant=True).mean().backward()
y = x
for layer in deep:
    y = checkpoint(layer, y, use_reentrant=False, preserve_rng_state=False)
y.sum().backward()
print("checkpointed", x.grad.shape)
del deep, x, y
net = nn.Sequential(
    nn.Conv2d(1, 32, 3),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(64 * 144, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
).cuda()
params, buffers = {k: v.detach() for k, v in net.named_parameters()}, {k: v.detach() for k, v in net.named_buffers()}


def loss_of(p, b, sample, target):
    return F.cross_entropy(functional_call(net, (p, b), (sample.unsqueeze(0),)), target.unsqueeze(0))


samples, targets = torch.randn(48, 1, 28, 28, device="cuda"), torch.randint(0, 10, (48,), device="cuda")
per = vmap(grad(loss_of), in_dims=(None, None, 0, 0), randomness="different")(params, buffers, samples, targets)
print("per sample", per["6.weight"].shape)
del per
mlps = [nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 64)).cuda() for _ in range(8)]
p, b = stack_module_state(mlps)
base = copy.deepcopy(mlps[0]).to("meta")
z = torch.randn(512, 256, device="cuda")
print("ensemble", vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), in_dims=(0, 0, None))(p, b, z).shape)
jac = vmap(jacrev(lambda v: mlps[0](v)))(z)
print("jacobian", jac.shape)


def scalar(v):
    return mlps[1](v).pow(2).sum()


print("hessian", vmap(hessian(scalar))(z[:8]).shape, jvp(grad(scalar), (z[0],), (z[1],))[1].shape)
meta = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 5)).cuda()
outer = torch.optim.Adam(meta.parameters(), 1e-3)
for episode in range(2):
    outer.zero_grad()
    total = 0
    for task in range(4):
        fast = dict(meta.named_parameters())
        xs, ys = torch.randn(25, 512, device="cuda"), torch.randint(0, 5, (25,), device="cuda")
        for inner in range(2):
            loss = F.cross_entropy(functional_call(meta, fast, (xs,)), ys)
            grads = torch.autograd.grad(loss, tuple(fast.values()), create_graph=True)
            fast = {k: w - 0.01 * g for (k, w), g in zip(fast.items(), grads, strict=False)}
        total = total + F.cross_entropy(
            functional_call(meta, fast, (torch.randn(75, 512, device="cuda"),)),
            torch.randint(0, 5, (75,), device="cuda"),
        )
    total.backward()
    outer.step()
print("maml", total.item())
