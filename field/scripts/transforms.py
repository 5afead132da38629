"""torch.func as in its tutorials: per-sample gradients with clipping and noise (DP-SGD), an ensemble by
stack_module_state, jacobians three ways, Hessians, a neural tangent kernel, MAML on sines, forward-mode AD,
hooks of saved tensors."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.f1, self.f2 = (
            nn.Conv2d(1, 32, 3, 1),
            nn.Conv2d(32, 64, 3, 1),
            nn.Linear(9216, 128),
            nn.Linear(128, 10),
        )

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c2(F.relu(self.c1(x)))), 2)
        return self.f2(F.relu(self.f1(x.flatten(1))))


net = Net().cuda()
x, y = torch.randn(32, 1, 28, 28, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
params = {k: v.detach() for k, v in net.named_parameters()}


def one(params, x, y):
    return F.cross_entropy(functional_call(net, params, (x[None],)), y[None])


for step in range(2):
    grads, losses = vmap(grad_and_value(one), (None, 0, 0))(params, x, y)
    norm = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
    scale = 1.0 / norm.clamp(min=1.0)
    with torch.no_grad():
        params = {
            k: p - 0.1 * (torch.einsum("b,b...->...", scale, grads[k]) + 0.1 * torch.randn_like(p)) / 32
            for k, p in params.items()
        }
print(losses.mean().item())
del grads, losses, norm, scale
nets = [Net().cuda() for _ in range(4)]
stacked, buffers = stack_module_state(nets)
base = copy.deepcopy(nets[0]).to("meta")
with torch.no_grad():
    print(vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), (0, 0, None))(stacked, buffers, x).shape)
del nets, stacked, buffers
mlp = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 32)).cuda()
w = dict(mlp.named_parameters())
v = torch.randn(64, 64, device="cuda")


def f(w, x):
    return functional_call(mlp, w, (x,))


print(
    vmap(jacrev(f, 1), (None, 0))(w, v).shape,
    vmap(jacfwd(f, 1), (None, 0))(w, v).shape,
    vmap(hessian(lambda x: f(w, x).pow(2).sum()))(v[:8]).shape,
)


def ntk(x1, x2):
    j1, j2 = vmap(jacrev(f), (None, 0))(w, x1), vmap(jacrev(f), (None, 0))(w, x2)
    return sum(
        torch.einsum("Naf,Mbf->NMab", a.flatten(2), b.flatten(2))
        for a, b in zip(j1.values(), j2.values(), strict=False)
    )


print(ntk(v[:16], v[16:32]).shape)
print(
    jvp(lambda x: f(w, x), (v,), (torch.randn_like(v),))[1].shape,
    vjp(lambda x: f(w, x), v)[1](torch.randn(64, 32, device="cuda"))[0].shape,
)
sine = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).cuda()
optimizer = torch.optim.Adam(sine.parameters(), 1e-3)
for step in range(3):
    w = dict(sine.named_parameters())
    xs, xq = torch.rand(25, 10, 1, device="cuda"), torch.rand(25, 10, 1, device="cuda")

    def task(w, xs, xq):
        def error(w, x):
            return F.mse_loss(functional_call(sine, w, (x,)), torch.sin(x))

        g = grad(error)(w, xs)
        return error({k: w[k] - 0.1 * g[k] for k in w}, xq)

    loss = vmap(task, (None, 0, 0))(w, xs, xq).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
with torch.autograd.graph.save_on_cpu(pin_memory=True):
    out = net(x).sum()
out.backward()
print(net.c1.weight.grad.shape)
