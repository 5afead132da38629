"""nn.TransformerEncoder with padding masks as in the tutorials, nn.Transformer for translation with greedy decoding, nested tensors' fast path in eval."""

import math

import torch
import torch.nn as nn

torch.manual_seed(0)


class Position(nn.Module):
    def __init__(self, d, n=512):
        super().__init__()
        p, e = torch.arange(n).unsqueeze(1), torch.exp(torch.arange(0, d, 2) * (-math.log(10000.0) / d))
        table = torch.zeros(n, 1, d)
        table[:, 0, 0::2], table[:, 0, 1::2] = torch.sin(p * e), torch.cos(p * e)
        self.register_buffer("table", table)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(x + self.table[: x.size(0)])


class Classifier(nn.Module):
    def __init__(self, d=256):
        super().__init__()
        self.embed = nn.Embedding(8000, d, padding_idx=0)
        layer = nn.TransformerEncoderLayer(d, 8, 1024, 0.1, activation="gelu", batch_first=True, norm_first=False)
        self.encoder, self.head = nn.TransformerEncoder(layer, 4), nn.Linear(d, 5)

    def forward(self, ids):
        pad = ids == 0
        h = self.encoder(self.embed(ids), src_key_padding_mask=pad)
        return self.head((h * (~pad).unsqueeze(-1)).sum(1) / (~pad).sum(1, keepdim=True))


model = Classifier().cuda()
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
for step in range(3):
    ids = torch.randint(1, 8000, (32, 160))
    for row in range(32):
        ids[row, 160 - 3 * row :] = 0
    ids[0, -1] = 5
    ids = ids.cuda()
    loss = nn.functional.cross_entropy(model(ids), torch.randint(0, 5, (32,), device="cuda"))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval()
with torch.no_grad():
    print("classified", model(ids[1:]).argmax(-1).shape, loss.item())


class Translate(nn.Module):
    def __init__(self, d=256):
        super().__init__()
        self.a, self.b, self.pos = nn.Embedding(6000, d), nn.Embedding(6000, d), Position(d)
        self.transformer, self.out = nn.Transformer(d, 8, 3, 3, 512, 0.1), nn.Linear(d, 6000)

    def forward(self, src, tgt, tgt_mask, src_pad, tgt_pad):
        h = self.transformer(
            self.pos(self.a(src)), self.pos(self.b(tgt)), None, tgt_mask, None, src_pad, tgt_pad, src_pad
        )
        return self.out(h)


net = Translate().cuda()
optimizer = torch.optim.Adam(net.parameters(), 1e-4, betas=(0.9, 0.98), eps=1e-9)
for step in range(2):
    src, tgt = torch.randint(1, 6000, (70, 32)).cuda(), torch.randint(1, 6000, (60, 32)).cuda()
    src[50:, ::2], tgt[45:, ::3] = 0, 0
    mask = nn.Transformer.generate_square_subsequent_mask(59, device="cuda")
    logits = net(src, tgt[:-1], mask, (src == 0).t(), (tgt[:-1] == 0).t())
    loss = nn.functional.cross_entropy(logits.reshape(-1, 6000), tgt[1:].reshape(-1), ignore_index=0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("translate", loss.item())
net.eval()
with torch.no_grad():
    memory = net.transformer.encoder(net.pos(net.a(src[:, :1])))
    ys = torch.ones(1, 1, dtype=torch.long, device="cuda")
    for i in range(8):
        m = nn.Transformer.generate_square_subsequent_mask(ys.size(0), device="cuda")
        out = net.out(net.transformer.decoder(net.pos(net.b(ys)), memory, m).transpose(0, 1)[:, -1])
        word = out.max(1)[1].item()
        ys = torch.cat([ys, torch.full((1, 1), word, dtype=torch.long, device="cuda")], 0)
        if word == -1:
            break
print(ys.shape)
