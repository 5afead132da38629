"""torchvision: Faster R-CNN, Mask R-CNN, RetinaNet and SSD, a training step and an inference of each."""

import torch
from torchvision.models import detection


def sample(masks):
    boxes = torch.tensor([[10.0, 20.0, 120.0, 160.0], [50.0, 60.0, 200.0, 220.0]], device="cuda")
    target = {"boxes": boxes, "labels": torch.tensor([1, 2], device="cuda")}
    return target | ({"masks": torch.ones(2, 256, 256, dtype=torch.uint8, device="cuda")} if masks else {})


for make in (
    detection.fasterrcnn_mobilenet_v3_large_320_fpn, detection.maskrcnn_resnet50_fpn, detection.retinanet_resnet50_fpn,
    detection.ssdlite320_mobilenet_v3_large, detection.fcos_resnet50_fpn,
):  # fmt: skip
    model = make(weights=None, weights_backbone=None, num_classes=5).cuda()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.005, momentum=0.9)
    images = [torch.rand(3, 256, 256, device="cuda") for _ in range(2)]
    for _ in range(2):
        losses = model(images, [sample("mask" in make.__name__) for _ in images])
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise SystemExit("the loss is not finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(images)
    print(make.__name__, {name: loss.item() for name, loss in losses.items()}, found[0]["boxes"].shape[1:])
