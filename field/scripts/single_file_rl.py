"""CleanRL-like single files: DQN with a replay buffer of frames on the host and an Atari net, then TD3 with
delayed policies, then A2C with a GRU over an environment made here."""

import copy
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

random.seed(0), np.random.seed(0), torch.manual_seed(0)


class Frames:
    def reset(self):
        self.t = 0
        return np.random.randint(0, 255, (4, 84, 84), dtype=np.uint8)

    def step(self, action):
        self.t += 1
        return np.random.randint(0, 255, (4, 84, 84), dtype=np.uint8), float(action), self.t > 20


class Q(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512),
            nn.ReLU(),
            nn.Linear(512, 6),
        )

    def forward(self, x):
        return self.network(x / 255.0)


q, target = Q().cuda(), Q().cuda()
target.load_state_dict(q.state_dict())
optimizer = torch.optim.Adam(q.parameters(), 1e-4)
env, store = Frames(), []
obs = env.reset()
for step in range(40):
    action = (
        random.randrange(6)
        if random.random() < 0.5
        else torch.argmax(q(torch.Tensor(obs[None]).cuda()), dim=1).cpu().numpy()[0]
    )
    after, reward, done = env.step(int(action))
    store.append((obs, action, reward, after, done))
    obs = env.reset() if done else after
    if step >= 20 and step % 4 == 0:
        rows = random.choices(store, k=32)
        s, a, r, n, d = (torch.tensor(np.array(v)).cuda() for v in zip(*rows, strict=False))
        with torch.no_grad():
            best, _ = target(n.float()).max(dim=1)
            goal = r.float() + 0.99 * best * (1 - d.float())
        loss = F.mse_loss(goal, q(s.float()).gather(1, a.long()[:, None]).squeeze())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if step % 16 == 0:
        for a_, b_ in zip(target.parameters(), q.parameters(), strict=False):
            a_.data.copy_(b_.data)
print(loss.item())
del q, target, optimizer, loss


def mlp(i, o, h=512):
    return nn.Sequential(nn.Linear(i, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, o))


actor, q1, q2 = nn.Sequential(mlp(24, 6), nn.Tanh()).cuda(), mlp(30, 1).cuda(), mlp(30, 1).cuda()

actor_t, q1_t, q2_t = (copy.deepcopy(m) for m in (actor, q1, q2))
a_opt, q_opt = torch.optim.Adam(actor.parameters(), 3e-4), torch.optim.Adam([*q1.parameters(), *q2.parameters()], 3e-4)
for step in range(6):
    s, a, r, n, d = (
        torch.randn(1024, 24, device="cuda"),
        torch.rand(1024, 6, device="cuda"),
        torch.randn(1024, device="cuda"),
        torch.randn(1024, 24, device="cuda"),
        torch.zeros(1024, device="cuda"),
    )
    with torch.no_grad():
        noise = (torch.randn_like(a) * 0.2).clamp(-0.5, 0.5)
        na = (actor_t(n) + noise).clamp(-1, 1)
        goal = r + (1 - d) * 0.99 * torch.min(q1_t(torch.cat([n, na], 1)), q2_t(torch.cat([n, na], 1))).view(-1)
    loss = F.mse_loss(q1(torch.cat([s, a], 1)).view(-1), goal) + F.mse_loss(q2(torch.cat([s, a], 1)).view(-1), goal)
    q_opt.zero_grad()
    loss.backward()
    q_opt.step()
    if step % 2 == 0:
        a_loss = -q1(torch.cat([s, actor(s)], 1)).mean()
        a_opt.zero_grad()
        a_loss.backward()
        a_opt.step()
        for net, slow in ((actor, actor_t), (q1, q1_t), (q2, q2_t)):
            for p, t in zip(net.parameters(), slow.parameters(), strict=False):
                t.data.copy_(0.005 * p.data + 0.995 * t.data)
print(loss.item())
del actor, q1, q2, actor_t, q1_t, q2_t, a_opt, q_opt, loss, a_loss


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.gru, self.pi, self.v = (
            nn.Linear(16, 128),
            nn.GRUCell(128, 256),
            nn.Linear(256, 4),
            nn.Linear(256, 1),
        )

    def forward(self, x, h):
        h = self.gru(self.enc(x).relu(), h)
        return torch.distributions.Categorical(logits=self.pi(h)), self.v(h).squeeze(-1), h


net = Recurrent().cuda()
optimizer = torch.optim.RMSprop(net.parameters(), 7e-4, eps=1e-5, alpha=0.99)
h = torch.zeros(64, 256, device="cuda")
for update in range(3):
    logs, values, rewards, entropies = [], [], [], []
    for t in range(16):
        dist, value, h = net(torch.from_numpy(np.random.randn(64, 16).astype(np.float32)).cuda(), h)
        action = dist.sample()
        logs.append(dist.log_prob(action)), values.append(value), entropies.append(dist.entropy())
        rewards.append(torch.from_numpy((action.cpu().numpy() == 1).astype(np.float32)).cuda())
    R, returns = values[-1].detach(), []
    for r in reversed(rewards):
        R = r + 0.99 * R
        returns.insert(0, R)
    returns, values, logs = torch.stack(returns), torch.stack(values), torch.stack(logs)
    advantage = returns - values
    loss = -(logs * advantage.detach()).mean() + 0.5 * advantage.pow(2).mean() - 0.01 * torch.stack(entropies).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()
    h = h.detach()
print(loss.item())
