"""Lightning Fabric: a GPT by hand, bf16-true weights, accumulation, clipping, a checkpoint that comes back."""

import tempfile
from pathlib import Path

import lightning as L
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h, self.n1, self.n2 = h, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.h, -1).transpose(1, 2) for y in self.qkv(self.n1(x)).split(d, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab=5000, d=512, layers=4, h=8, t=256):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(t, d)
        self.blocks, self.norm = nn.ModuleList(Block(d, h) for _ in range(layers)), nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, ids):
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


for precision in ("bf16-mixed", "bf16-true", "16-mixed"):
    fabric = L.Fabric(accelerator="cuda", devices=1, precision=precision)
    fabric.launch()
    fabric.seed_everything(4)
    with fabric.init_module():
        model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.1, betas=(0.9, 0.95))
    model, optimizer = fabric.setup(model, optimizer)
    data = torch.utils.data.DataLoader(torch.randint(0, 5000, (64, 257)), batch_size=8)
    data = fabric.setup_dataloaders(data)
    for step, ids in enumerate(data):
        busy = step % 2 == 0
        with fabric.no_backward_sync(model, enabled=busy):
            logits = model(ids[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            fabric.backward(loss / 2)
        if not busy:
            fabric.clip_gradients(model, optimizer, max_norm=1.0) if precision != "16-mixed" else None
            optimizer.step()
            optimizer.zero_grad()
        if step == 5:
            break
    path = Path(tempfile.mkdtemp()) / "state.ckpt"
    fabric.save(path, {"model": model, "optimizer": optimizer, "step": step})
    rest = fabric.load(path, {"model": model, "optimizer": optimizer})
    print(precision, loss.item(), rest["step"])
    del model, optimizer, logits, loss, data
