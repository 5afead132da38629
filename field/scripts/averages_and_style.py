"""SWA with its scheduler and update_bn, then style transfer by L-BFGS over a VGG-like net with Gram matrices."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

torch.manual_seed(0)


def stage(a, b):
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1),
        nn.BatchNorm2d(b),
        nn.ReLU(inplace=True),
        nn.Conv2d(b, b, 3, padding=1),
        nn.BatchNorm2d(b),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


net = nn.Sequential(
    stage(3, 64), stage(64, 128), stage(128, 256), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)
).cuda()
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
swa, ema = AveragedModel(net), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
schedule, swa_schedule = (
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4),
    SWALR(optimizer, swa_lr=0.05, anneal_epochs=2),
)
data = [(torch.randn(32, 3, 64, 64), torch.randint(0, 100, (32,))) for _ in range(3)]
for epoch in range(3):
    for x, y in data:
        loss = F.cross_entropy(net(x.cuda(non_blocking=True)), y.cuda(non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(net)
    if epoch >= 1:
        swa.update_parameters(net)
        swa_schedule.step()
    else:
        schedule.step()
update_bn(data, swa, device=torch.device("cuda"))
print("swa", loss.item(), swa(x.cuda()).shape)
del optimizer, swa, ema, loss
features = net[:3].eval().requires_grad_(False)


def gram(f):
    b, c, h, w = f.shape
    f = f.view(b * c, h * w)
    return f @ f.t() / (b * c * h * w)


content, style = torch.rand(1, 3, 256, 256, device="cuda"), torch.rand(1, 3, 256, 256, device="cuda")


def maps(x):
    found = []
    for part in features:
        x = part(x)
        found.append(x)
    return found


wanted, grams = maps(content)[-1].detach(), [gram(f).detach() for f in maps(style)]
picture = content.clone().requires_grad_(True)
lbfgs, runs = torch.optim.LBFGS([picture], max_iter=5, history_size=10), [0]
while runs[0] <= 8:

    def closure():
        with torch.no_grad():
            picture.clamp_(0, 1)
        lbfgs.zero_grad()
        found = maps(picture)
        loss = F.mse_loss(found[-1], wanted) + 1e6 * sum(
            F.mse_loss(gram(f), g) for f, g in zip(found, grams, strict=False)
        )
        loss.backward()
        runs[0] += 1
        return loss

    lbfgs.step(closure)
print("style", picture.shape)
