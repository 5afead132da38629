"""stable-baselines3: PPO and DQN on an environment made here, saved and loaded."""

import tempfile

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN, PPO, SAC


class World(gym.Env):
    """A number that actions move."""

    def __init__(self, box=False):
        self.observation_space = gym.spaces.Box(-10, 10, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32) if box else gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = np.zeros(4, np.float32)
        return self.at, {}

    def step(self, action):
        self.at = (self.at + 0.1 * (2 * float(np.sum(action)) - 1)).clip(-10, 10).astype(np.float32)
        return self.at, 1.0, bool(abs(self.at).max() > 5), False, {}


with tempfile.TemporaryDirectory() as folder:
    model = PPO("MlpPolicy", World(), n_steps=64, batch_size=32, n_epochs=2, device="cuda")
    model.learn(128)
    model.save(f"{folder}/ppo")
    again = PPO.load(f"{folder}/ppo", env=World(), device="cuda")
    print(again.predict(np.zeros(4, np.float32))[0])
    DQN("MlpPolicy", World(), learning_starts=16, train_freq=4, device="cuda").learn(64)
    SAC("MlpPolicy", World(box=True), learning_starts=16, device="cuda").learn(32)
