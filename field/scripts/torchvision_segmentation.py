"""torchvision: DeepLab and a classifier, with its references' metrics, channels-last and cudnn's benchmark."""

import torch
from figures import size, states, told
from torch import nn
from torchvision.models import mobilenet_v3_small, segmentation
from torchvision.transforms import v2

torch.backends.cudnn.benchmark = True
model = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
scaler = torch.amp.GradScaler()
matrix = torch.zeros(21, 21, dtype=torch.int64, device="cuda")
for _ in range(2):
    images, masks = torch.randn(4, 3, 224, 224, device="cuda"), torch.randint(0, 21, (4, 224, 224), device="cuda")
    with torch.autocast("cuda", torch.float16):
        out = model(images)
        loss = nn.functional.cross_entropy(out["out"], masks) + 0.5 * nn.functional.cross_entropy(out["aux"], masks)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    with torch.inference_mode():
        guessed, wanted = out["out"].argmax(1).flatten(), masks.flatten()
        inside = (wanted >= 0) & (wanted < 21)
        matrix += torch.bincount(21 * wanted[inside] + guessed[inside], minlength=441).reshape(21, 21)
share = matrix.float().diag() / matrix.float().sum(1)
print(loss.item(), share.mean().item(), f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
told(parameters=size(model.parameters()), optimizer_state=states(optimizer))
small = mobilenet_v3_small(weights=None, num_classes=10).cuda().to(memory_format=torch.channels_last)
change = v2.Compose(
    [v2.RandomHorizontalFlip(), v2.RandomResizedCrop(96, antialias=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
)
batch = change(torch.rand(8, 3, 128, 128)).to("cuda", memory_format=torch.channels_last, non_blocking=True)
v2.MixUp(num_classes=10)(batch, torch.randint(0, 10, (8,), device="cuda"))
nn.functional.cross_entropy(small(batch), torch.randint(0, 10, (8,), device="cuda"), label_smoothing=0.1).backward()
