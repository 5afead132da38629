"""accelerate: bf16, accumulation, clipping, gathered metrics, and a state that is saved and loaded."""

import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from figures import size, states, told
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(0)
accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
model = nn.Sequential(
    nn.Linear(512, 2048), nn.GELU(), nn.Dropout(0.1), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
data = TensorDataset(torch.randn(256, 512), torch.randint(0, 10, (256,)))
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=16)
model, optimizer, train, valid, scheduler = accelerator.prepare(
    model, optimizer, DataLoader(data, 32, shuffle=True), DataLoader(data, 32), scheduler
)
with tempfile.TemporaryDirectory() as folder:
    for epoch in range(2):
        model.train()
        for rows, labels in train:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(rows), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        model.eval()
        right = 0
        for rows, labels in valid:
            with torch.no_grad():
                guessed, wanted = accelerator.gather_for_metrics((model(rows).argmax(-1), labels))
            right += (guessed == wanted).sum().item()
        accelerator.print(epoch, right, accelerator.gather(loss.detach()).mean().item())
        accelerator.save_state(f"{folder}/{epoch}")
    accelerator.load_state(f"{folder}/0")
    accelerator.wait_for_everyone()
    accelerator.save(accelerator.unwrap_model(model).state_dict(), f"{folder}/model.pt")
told(parameters=size(model.parameters()), optimizer_state=states(optimizer.optimizer))
accelerator.end_training()
