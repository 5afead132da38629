"""PPO as in single-file implementations: rollouts on the card, advantages, minibatches, an environment on the host."""

import numpy as np
import torch
from figures import size, states, told
from torch import nn
from torch.distributions import Categorical

ENVS, STEPS, EPOCHS, BATCHES = 8, 32, 3, 4


class World:
    """A pole that falls, roughly."""

    def reset(self):
        self.at = np.random.uniform(-0.05, 0.05, (ENVS, 4)).astype(np.float32)
        return self.at

    def step(self, actions):
        self.at = self.at + np.where(actions[:, None] > 0, 0.01, -0.01).astype(np.float32)
        over = np.abs(self.at).max(1) > 0.2
        self.at[over] = 0
        return self.at, np.ones(ENVS, np.float32), over.astype(np.float32)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def act(self, seen, action=None):
        chances = Categorical(logits=self.actor(seen))
        if action is None:
            action = chances.sample()
        return action, chances.log_prob(action), chances.entropy(), self.critic(seen)


device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
agent, world = Agent().to(device), World()
optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
seen = torch.zeros((STEPS, ENVS, 4), device=device)
actions, logprobs, rewards, dones, values = (torch.zeros((STEPS, ENVS), device=device) for _ in range(5))
now, done = torch.tensor(world.reset(), device=device), torch.zeros(ENVS, device=device)
for update in range(3):
    for step in range(STEPS):
        seen[step], dones[step] = now, done
        with torch.no_grad():
            action, logprob, _, value = agent.act(now)
            values[step] = value.flatten()
        actions[step], logprobs[step] = action, logprob
        state, reward, over = world.step(action.cpu().numpy())
        rewards[step] = torch.tensor(reward, device=device).view(-1)
        now, done = torch.tensor(state, device=device), torch.tensor(over, device=device)
    with torch.no_grad():
        following, advantages, last = agent.critic(now).reshape(1, -1), torch.zeros_like(rewards), 0
        for t in reversed(range(STEPS)):
            going = 1 - (done if t == STEPS - 1 else dones[t + 1])
            ahead = following if t == STEPS - 1 else values[t + 1]
            delta = rewards[t] + 0.99 * ahead * going - values[t]
            advantages[t] = last = delta + 0.99 * 0.95 * going * last
        returns = advantages + values
    rows, everything = np.arange(ENVS * STEPS), (seen.reshape(-1, 4), actions.reshape(-1), logprobs.reshape(-1))
    flat_advantages, flat_returns = advantages.reshape(-1), returns.reshape(-1)
    for _epoch in range(EPOCHS):
        np.random.shuffle(rows)
        for start in range(0, len(rows), len(rows) // BATCHES):
            some = rows[start : start + len(rows) // BATCHES]
            _, new, entropy, value = agent.act(everything[0][some], everything[1].long()[some])
            ratio = (new - everything[2][some]).exp()
            with torch.no_grad():
                kl = ((ratio - 1) - ratio.log()).mean()
                clipped = [((ratio - 1.0).abs() > 0.2).float().mean().item()]
            gain = flat_advantages[some]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy = torch.max(-gain * ratio, -gain * torch.clamp(ratio, 0.8, 1.2)).mean()
            loss = policy - 0.01 * entropy.mean() + 0.5 * ((value.view(-1) - flat_returns[some]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        if kl > 100:
            break
    wanted, got = flat_returns.cpu().numpy(), values.reshape(-1).cpu().numpy()
    print(update, loss.item(), np.mean(clipped), 1 - np.var(wanted - got) / (np.var(wanted) + 1e-9))
told(parameters=size(agent.parameters()), optimizer_state=states(optimizer))
