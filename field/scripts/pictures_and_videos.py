"""A 2D U-Net with Dice and fp16 autocast (padding, bilinear up, dropout2d), a 3D convolutional video net with max pooling, ConvLSTM cells."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


def double(a, b):
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1, bias=False),
        nn.BatchNorm2d(b),
        nn.ReLU(inplace=True),
        nn.Conv2d(b, b, 3, padding=1, bias=False),
        nn.BatchNorm2d(b),
        nn.ReLU(inplace=True),
    )


class Unet(nn.Module):
    def __init__(self, c=32):
        super().__init__()
        self.down, self.pool = (
            nn.ModuleList(double(a, b) for a, b in ((3, c), (c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c))),
            nn.MaxPool2d(2),
        )
        self.up = nn.ModuleList(double(a + b, b) for a, b in ((8 * c, 4 * c), (4 * c, 2 * c), (2 * c, c)))
        self.grow, self.drop, self.out = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Dropout2d(0.2),
            nn.Conv2d(c, 4, 1),
        )

    def forward(self, x):
        kept = []
        for i, d in enumerate(self.down):
            x = d(self.pool(x) if i else x)
            kept.append(x)
        x = self.drop(kept.pop())
        for u in self.up:
            other, x = kept.pop(), self.grow(x)
            dy, dx = other.size(2) - x.size(2), other.size(3) - x.size(3)
            x = u(torch.cat([other, F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], 1))
        return self.out(x)


model = Unet().to("cuda", memory_format=torch.channels_last)
optimizer = torch.optim.RMSprop(model.parameters(), 1e-5, weight_decay=1e-8, momentum=0.999, foreach=True)
scaler = torch.amp.GradScaler("cuda")
for step in range(3):
    x = torch.randn(6, 3, 180, 220).to("cuda", memory_format=torch.channels_last)
    y = torch.randint(0, 4, (6, 180, 220)).cuda()
    with torch.autocast("cuda", torch.float16):
        logits = model(x)
        p, hot = F.softmax(logits, 1).float(), F.one_hot(y, 4).permute(0, 3, 1, 2).float()
        inter, sets = 2 * (p * hot).sum((-1, -2)), p.sum((-1, -2)) + hot.sum((-1, -2))
        loss = F.cross_entropy(logits, y) + 1 - ((inter + 1e-6) / (sets + 1e-6)).mean()
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
print("unet", loss.item())
del model, optimizer, logits, p, hot, inter, sets, loss, x, y
video = nn.Sequential(
    nn.Conv3d(3, 32, 3, padding=1),
    nn.BatchNorm3d(32),
    nn.ReLU(),
    nn.MaxPool3d((1, 2, 2)),
    nn.Conv3d(32, 64, 3, padding=1),
    nn.BatchNorm3d(64),
    nn.ReLU(),
    nn.MaxPool3d(2),
    nn.Conv3d(64, 128, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool3d(1),
    nn.Flatten(),
    nn.Linear(128, 20),
).cuda()
opt = torch.optim.SGD(video.parameters(), 0.01, momentum=0.9)
for step in range(2):
    loss = F.cross_entropy(
        video(torch.randn(4, 3, 8, 64, 64, device="cuda")), torch.randint(0, 20, (4,), device="cuda")
    )
    opt.zero_grad()
    loss.backward()
    opt.step()
print("video", loss.item())


class Cell(nn.Module):
    def __init__(self, a, h):
        super().__init__()
        self.h, self.conv = h, nn.Conv2d(a + h, 4 * h, 5, padding=2)

    def forward(self, x, state):
        i, f, o, g = self.conv(torch.cat([x, state[0]], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


cell, head = Cell(1, 48).cuda(), nn.Conv2d(48, 1, 1).cuda()
opt = torch.optim.Rprop([*cell.parameters(), *head.parameters()], 1e-3)
for step in range(2):
    frames, state = (
        torch.rand(8, 10, 1, 48, 48, device="cuda"),
        tuple(torch.zeros(8, 48, 48, 48, device="cuda") for _ in range(2)),
    )
    loss = 0
    for t in range(9):
        state = cell(frames[:, t], state)
        loss = loss + F.binary_cross_entropy_with_logits(head(state[0]), frames[:, t + 1])
    opt.zero_grad()
    loss.backward()
    opt.step()
print("convlstm", loss.item())
