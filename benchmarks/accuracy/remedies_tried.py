"""Three loops that run out under a cap, and with each remedy written by hand; the same file on a card and predicted.

    python remedies_tried.py --kind gpt --batch-size 8 --cap 9 --change chunked-loss
    memgraph run --gpu h200 remedies_tried.py --kind gpt --batch-size 8 --cap 9      # says which remedies help
"""

import argparse
import json

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

parser = argparse.ArgumentParser()
parser.add_argument("--kind", default="gpt")
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--cap", type=float, default=8.0)
parser.add_argument("--change", default="")
parser.add_argument("--blocks", default="")
args = parser.parse_args()
changes = args.change.split(",")


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        b, n, w = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, w))
        return x + self.mlp(self.ln2(x))


class Gpt(nn.Module):
    def __init__(self, words=32000, width=768, layers=8, length=2048):
        super().__init__()
        self.tok, self.pos = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 12) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, ids):
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


class Residual(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.short = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.short(x))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, 1, 1)
        rows = [(64, 64, 1)] * 3 + [(64, 128, 2)] + [(128, 128, 1)] * 3 + [(128, 256, 2)] + [(256, 256, 1)] * 3
        self.blocks = nn.Sequential(*(Residual(*row) for row in rows))
        self.head = nn.Linear(256, 1000)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def loss_of(logits, targets):
    if "chunked-loss" in changes:
        from memgraph.models.chunked_loss import chunked_cross_entropy

        return chunked_cross_entropy(nn.Identity(), logits, targets, chunks=8)
    return F.cross_entropy(logits, targets)


def gpt():
    ids = torch.randint(0, 32000, (args.batch_size, 2048), device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(ids)
        return loss_of(logits.flatten(0, 1), ids.flatten())


def cnn():
    images = torch.randn(args.batch_size, 3, 96, 96, device="cuda")
    labels = torch.randint(0, 1000, (args.batch_size,), device="cuda")
    return F.cross_entropy(model(images), labels)


def llama():
    ids = torch.randint(0, 32000, (args.batch_size, 1024), device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(input_ids=ids).logits
        return loss_of(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def made():
    if args.kind == "gpt":
        return Gpt(), gpt
    if args.kind == "cnn":
        return Cnn(), cnn
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8,
                         num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=1024)
    net = LlamaForCausalLM(config)
    if "no-cache" in changes:
        net.config.use_cache = False
    return net, llama


def checkpointed(block):
    inner = block.forward
    block.forward = lambda *a, **k: checkpoint(inner, *a, use_reentrant=False, **k)


total = torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction(args.cap * 2**30 / total)
torch.manual_seed(0)
module, step = made()
model = module.cuda().train()
for name in filter(None, args.blocks.split(",")):
    checkpointed(model.get_submodule(name))
options = {"foreach": False} if "no-foreach" in changes else {"fused": True} if "fused" in changes else {}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **options)
def told(failed):
    stats = torch.cuda.memory_stats()
    row = {"kind": args.kind, "batch": args.batch_size, "change": args.change, "blocks": args.blocks, "failed": failed}
    peaks = {kind: stats[f"{kind}_bytes.all.peak"] for kind in ("requested", "allocated", "reserved")}
    print(json.dumps(row | peaks), flush=True)


try:
    for _ in range(3):
        loss = step()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
except torch.cuda.OutOfMemoryError as error:
    told(str(error))
    raise
told("")
