"""Inference with own quantised weights: int8 per channel with _int_mm, 4-bit groups unpacked as they come, an own KV cache, top-k sampling."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Int8Linear(nn.Module):
    def __init__(self, linear):
        super().__init__()
        w = linear.weight.data
        scale = w.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (w / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(1).to(torch.bfloat16))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        if flat.shape[0] > 16:
            s = flat.abs().amax(1, keepdim=True).float() / 127
            out = torch._int_mm((flat / s).round().to(torch.int8), self.weight.t()).float() * s * self.scale
        else:
            out = flat @ self.weight.to(flat.dtype).t() * self.scale
        return out.to(x.dtype).view(*x.shape[:-1], -1)


class Int4Linear(nn.Module):
    def __init__(self, linear, group=64):
        super().__init__()
        w = linear.weight.data.view(linear.out_features, -1, group)
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        q = ((w - low) / (high - low) * 15).round().to(torch.uint8)
        self.register_buffer("packed", q[..., ::2] << 4 | q[..., 1::2])
        self.register_buffer("low", low)
        self.register_buffer("step", (high - low) / 15)

    def forward(self, x):
        w = torch.stack([self.packed >> 4, self.packed & 15], -1).flatten(-2).to(x.dtype) * self.step + self.low
        return F.linear(x, w.flatten(1).to(x.dtype))


class Block(nn.Module):
    def __init__(self, d=1024, h=8):
        super().__init__()
        self.h, self.n1, self.n2 = h, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.o, self.up, self.down = (
            nn.Linear(d, 3 * d, bias=False),
            nn.Linear(d, d, bias=False),
            nn.Linear(d, 4 * d, bias=False),
            nn.Linear(4 * d, d, bias=False),
        )

    def forward(self, x, cache, at):
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.h, -1).transpose(1, 2) for y in self.qkv(self.n1(x)).chunk(3, -1))
        cache[0][:, :, at : at + t], cache[1][:, :, at : at + t] = k, v
        y = F.scaled_dot_product_attention(q, cache[0][:, :, : at + t], cache[1][:, :, : at + t], is_causal=t > 1)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Gpt(nn.Module):
    def __init__(self, layers=6, d=1024, vocab=8000):
        super().__init__()
        self.embed, self.blocks, self.head = (
            nn.Embedding(vocab, d),
            nn.ModuleList(Block(d) for _ in range(layers)),
            nn.Linear(d, vocab, bias=False),
        )

    def forward(self, ids, caches, at):
        x = self.embed(ids)
        for block, cache in zip(self.blocks, caches, strict=False):
            x = block(x, cache, at)
        return self.head(x[:, -1])


def swap(model, kind):
    for block in model.blocks:
        for name in ("qkv", "o", "up", "down"):
            setattr(block, name, kind(getattr(block, name)))
    return model


@torch.inference_mode()
def generate(model, ids, new=16, k=40):
    caches = [
        torch.zeros(2, len(ids), 8, ids.shape[1] + new, 128, device="cuda", dtype=torch.bfloat16) for _ in model.blocks
    ]
    at, out = 0, ids
    for _ in range(new):
        logits = model(out[:, at:], caches, at).float() / 0.8
        at = out.shape[1]
        best = torch.topk(logits, k).values[:, -1:]
        probs = logits.masked_fill(logits < best, -float("inf")).softmax(-1)
        out = torch.cat([out, torch.multinomial(probs, 1)], 1)
    return out


for kind in (Int8Linear, Int4Linear):
    model = swap(Gpt().to("cuda", torch.bfloat16).eval(), kind)
    print(kind.__name__, generate(model, torch.randint(0, 8000, (4, 96), device="cuda")).shape)
    del model
net = (
    nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))
    .half()
    .cuda()
    .eval()
)
with torch.no_grad():
    print(net(torch.randn(2048, 1024, device="cuda").half()).argmax(-1).shape)
