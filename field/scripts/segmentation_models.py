"""segmentation-models-pytorch: a U-Net with its losses and metrics."""

import segmentation_models_pytorch as smp
import torch
from figures import size, states, told

model = smp.Unet("resnet18", encoder_weights=None, classes=3).cuda()
losses = [smp.losses.DiceLoss("multiclass"), smp.losses.FocalLoss("multiclass")]
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
for _ in range(2):
    images, masks = torch.randn(4, 3, 128, 128, device="cuda"), torch.randint(0, 3, (4, 128, 128), device="cuda")
    out = model(images)
    loss = sum(judge(out, masks) for judge in losses)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
counts = smp.metrics.get_stats(out.argmax(1), masks, mode="multiclass", num_classes=3)
print(loss.item(), smp.metrics.iou_score(*counts, reduction="micro").item())
told(parameters=size(model.parameters()), optimizer_state=states(optimizer))
