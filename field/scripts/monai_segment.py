"""MONAI: a U-Net in three dimensions with its Dice loss, an inference in windows, metrics, and a SegResNet."""

import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import SegResNet, UNet
from monai.transforms import AsDiscrete

net = UNet(3, 1, 2, (8, 16, 32), (2, 2)).cuda()
optimizer = torch.optim.Adam(net.parameters(), 1e-3)
criterion = DiceCELoss(to_onehot_y=True, softmax=True)
for _ in range(3):
    volumes = torch.rand(2, 1, 32, 32, 32, device="cuda")
    loss = criterion(net(volumes), torch.randint(0, 2, (2, 1, 32, 32, 32), device="cuda"))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
net.eval()
metric, one_hot = DiceMetric(include_background=False), AsDiscrete(to_onehot=2)
with torch.no_grad():
    whole = sliding_window_inference(torch.rand(1, 1, 48, 48, 48, device="cuda"), (32, 32, 32), 2, net)
    found = AsDiscrete(argmax=True, to_onehot=2)(whole[0])
    metric(y_pred=[found], y=[one_hot(torch.randint(0, 2, (1, 48, 48, 48), device="cuda"))])
print("dice", metric.aggregate().item())
SegResNet(3, 8, 1, 2).cuda()(torch.rand(1, 1, 32, 32, 32, device="cuda")).sum().backward()
