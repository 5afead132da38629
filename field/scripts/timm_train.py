"""timm: a ConvNeXt and a ViT with mixup, average weights, its scheduler and optimizer, saved and resumed."""

import tempfile

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy

for name in ("convnext_atto", "vit_tiny_patch16_224", "resnet18", "efficientnet_b0"):
    model = timm.create_model(name, pretrained=False, num_classes=100, drop_path_rate=0.1).cuda()
    average = ModelEmaV3(model, decay=0.99)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=4, warmup_t=1)
    scaler, mixup, loss_of, meter = (
        NativeScaler(),
        Mixup(0.8, 1.0, num_classes=100),
        SoftTargetCrossEntropy(),
        AverageMeter(),
    )
    for step in range(3):
        images, labels = torch.randn(16, 3, 224, 224, device="cuda"), torch.randint(0, 100, (16,), device="cuda")
        images, soft = mixup(images, labels)
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model(images), soft)
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        average.update(model, step=step)
        scheduler.step(step)
        meter.update(loss.item(), 16)
    model.eval()
    with torch.inference_mode():
        first, fifth = accuracy(average(images), labels, topk=(1, 5))
    print(name, meter.avg, first.item(), fifth.item())
    with tempfile.NamedTemporaryFile() as file:
        torch.save(
            {"model": model.state_dict(), "ema": average.state_dict(), "optimizer": optimizer.state_dict()}, file.name
        )
        saved = torch.load(file.name, map_location="cpu")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
