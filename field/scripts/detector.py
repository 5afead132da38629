"""An FCOS-like detector by hand: pyramids, focal loss, IoU loss over positives, then decoding with an own NMS loop on the host."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


def conv(a, b, s=1):
    return nn.Sequential(nn.Conv2d(a, b, 3, s, 1, bias=False), nn.GroupNorm(8, b), nn.SiLU(inplace=True))


class Detector(nn.Module):
    def __init__(self, classes=10, c=64):
        super().__init__()
        self.stem, self.s1, self.s2, self.s3 = (
            nn.Sequential(conv(3, 32, 2), conv(32, c, 2)),
            conv(c, c, 2),
            conv(c, 2 * c, 2),
            conv(2 * c, 4 * c, 2),
        )
        self.lat = nn.ModuleList(nn.Conv2d(k, c, 1) for k in (c, 2 * c, 4 * c))
        self.cls_tower, self.box_tower = (nn.Sequential(conv(c, c), conv(c, c)) for _ in range(2))
        self.cls, self.box, self.ctr = (
            nn.Conv2d(c, classes, 3, padding=1),
            nn.Conv2d(c, 4, 3, padding=1),
            nn.Conv2d(c, 1, 3, padding=1),
        )

    def forward(self, x):
        a = self.s1(self.stem(x))
        b = self.s2(a)
        d = self.s3(b)
        maps = [self.lat[2](d)]
        for lat, f in ((self.lat[1], b), (self.lat[0], a)):
            maps.insert(0, lat(f) + F.interpolate(maps[0], scale_factor=2, mode="nearest"))
        cls, box, ctr = [], [], []
        for f in maps:
            h, g = self.cls_tower(f), self.box_tower(f)
            cls.append(self.cls(h).flatten(2).transpose(1, 2))
            box.append(F.softplus(self.box(g)).flatten(2).transpose(1, 2))
            ctr.append(self.ctr(g).flatten(2).transpose(1, 2))
        return torch.cat(cls, 1), torch.cat(box, 1), torch.cat(ctr, 1)


def focal(logits, targets, alpha=0.25, gamma=2.0):
    p, ce = torch.sigmoid(logits), F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    pt = p * targets + (1 - p) * (1 - targets)
    return ((alpha * targets + (1 - alpha) * (1 - targets)) * ce * (1 - pt) ** gamma).sum()


model = Detector().cuda()
optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
for step in range(3):
    x = torch.randn(8, 3, 320, 320).cuda()
    cls, box, ctr = model(x)
    points = cls.shape[1]
    assigned = torch.randint(-20, 10, (8, points)).cuda()
    positive = assigned >= 0
    hot = F.one_hot(assigned.clamp(min=0), 10).float() * positive.unsqueeze(-1)
    count = positive.sum().clamp(min=1).float()
    want = torch.rand(8, points, 4).cuda() * 4
    overlap = torch.min(box, want).prod(-1) / torch.max(box, want).prod(-1).clamp(min=1e-6)
    loss = focal(cls, hot) / count + ((1 - overlap) * positive).sum() / count
    loss = loss + F.binary_cross_entropy_with_logits(ctr.squeeze(-1), positive.float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())


@torch.no_grad()
def decode(x, k=100):
    cls, box, ctr = model(x)
    score, label = (cls.sigmoid() * ctr.sigmoid()).max(-1)
    out = []
    for b in range(len(x)):
        top = score[b].topk(k)
        centre = top.indices.float()[:, None]
        boxes = torch.cat([centre - box[b][top.indices][:, :2], centre + box[b][top.indices][:, 2:]], 1)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        keep, order = [], top.values.argsort(descending=True)
        while order.numel() > 0:
            i, rest = order[0], order[1:]
            keep.append(i)
            low, high = torch.max(boxes[i, :2], boxes[rest, :2]), torch.min(boxes[i, 2:], boxes[rest, 2:])
            inter = (high - low).clamp(min=0).prod(1)
            order = rest[inter / (area[i] + area[rest] - inter) <= 0.5]
        keep = torch.stack(keep)
        sure = top.values[keep] > 0.05
        out.append(
            {"boxes": boxes[keep][sure], "scores": top.values[keep][sure], "labels": label[b][top.indices][keep][sure]}
        )
    return out


model.eval()
print(len(decode(x)))
