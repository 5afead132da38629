"""Optimizers from packages: Lion, schedule-free, bitsandbytes in 8 bits, and some of pytorch-optimizer's."""

import bitsandbytes as bnb
import pytorch_optimizer
import schedulefree
import torch
from lion_pytorch import Lion
from torch import nn

MAKERS = {
    "Lion": lambda p: Lion(p, lr=1e-4),
    "schedule-free": lambda p: schedulefree.AdamWScheduleFree(p, lr=1e-3),
    "Adam8bit": lambda p: bnb.optim.Adam8bit(p, lr=1e-3),
    "PagedAdamW32bit": lambda p: bnb.optim.PagedAdamW32bit(p, lr=1e-3),
    "Lion8bit": lambda p: bnb.optim.Lion8bit(p, lr=1e-4),
    **{name: lambda p, name=name: getattr(pytorch_optimizer, name)(p, lr=1e-3)
       for name in ("Lamb", "AdaBelief", "Ranger21", "Prodigy", "Adan", "SOAP", "StableAdamW", "CAME")
       if hasattr(pytorch_optimizer, name)},
}  # fmt: skip
for name, make in MAKERS.items():
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)).cuda()
    try:
        optimizer = make(model.parameters())
    except (TypeError, ValueError) as error:
        print(name, "is made otherwise:", error)
        continue
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(2):
        nn.functional.cross_entropy(
            model(torch.randn(8, 256, device="cuda")), torch.zeros(8, dtype=torch.long, device="cuda")
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    print(
        name,
        sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)),
    )
