"""torchao's optimizers with states of 8 and 4 bits."""

import torch
from torch import nn
from torchao.optim import AdamW4bit, AdamW8bit

for make in (AdamW8bit, AdamW4bit):
    model = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)).cuda()
    optimizer = make(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(torch.randn(8, 1024, device="cuda")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    print(make.__name__, torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated())
