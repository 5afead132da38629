"""Training loops over images and video, each a function that runs some steps on `cuda`. See `loops.py`."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resnet() -> None:
    """Bottleneck residual network in fp32 with batch norm: SGD with momentum and a schedule."""
    model = _resnet().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(3):
        images, labels = torch.randn(24, 3, 224, 224).cuda(), torch.randint(0, 1000, (24,)).cuda()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        schedule.step()


def resnet_channels_last() -> None:
    """The same in channels-last under fp16 autocast with a GradScaler."""
    model = _resnet().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(3):
        images = torch.randn(32, 3, 192, 192, device="cuda").to(memory_format=torch.channels_last)
        labels = torch.randint(0, 1000, (32,), device="cuda")
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def _resnet() -> nn.Module:
    class Bottleneck(nn.Module):
        def __init__(self, inside: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            self.short = (
                nn.Sequential(nn.Conv2d(inside, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
                if stride > 1 or inside != 4 * width
                else nn.Identity()
            )

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.bn1(self.conv1(x)), inplace=True)
            y = F.relu(self.bn2(self.conv2(y)), inplace=True)
            return F.relu(self.bn3(self.conv3(y)) + self.short(x), inplace=True)

    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, count, stride in ((64, 2, 1), (128, 3, 2), (256, 4, 2), (512, 2, 2)):
        for place in range(count):
            layers.append(Bottleneck(inside, width, stride if place == 0 else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000))


def vit() -> None:
    """Vision transformer of nn.TransformerEncoder layers with dropout: fp16 autocast, GradScaler, two micro-batches."""

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 512, 16, 16)
            self.place = nn.Parameter(torch.zeros(1, 197, 512))
            self.token = nn.Parameter(torch.zeros(1, 1, 512))
            layer = nn.TransformerEncoderLayer(512, 8, 2048, 0.1, "gelu", batch_first=True, norm_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False), nn.Linear(512, 1000)

        def forward(self, images: Tensor) -> Tensor:
            x = self.patch(images).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
            return self.head(self.encoder(x)[:, 0])

    model = ViT().cuda()
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(2):
        for _ in range(2):
            images, labels = torch.randn(16, 3, 224, 224).cuda(), torch.randint(0, 1000, (16,)).cuda()
            with torch.autocast("cuda", torch.float16):
                loss = F.cross_entropy(model(images), labels) / 2
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)


def convnext() -> None:
    """Depthwise 7 x 7 convolutions, layer norm over channels, layer scale, stochastic depth: AdamW in bf16 with soft
    labels, an averaged model and a warm-up."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.spread, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.scale = nn.Parameter(1e-6 * torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            y = self.spread(x).permute(0, 2, 3, 1)
            y = self.scale * self.down(F.gelu(self.up(self.norm(y))))
            keep = torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.9, device=x.device)) / 0.9
            return x + keep * y.permute(0, 3, 1, 2)

    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), nn.GroupNorm(1, 96)]
    for width, count in ((96, 2), (192, 2), (384, 4), (768, 2)):
        layers += [Block(width) for _ in range(count)]
        if width < 768:
            layers += [nn.GroupNorm(1, width), nn.Conv2d(width, 2 * width, 2, 2)]
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 1000)
    ).cuda()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    for _ in range(2):
        images, labels = torch.randn(16, 3, 224, 224).cuda(), torch.randint(0, 1000, (16,)).cuda()
        soft = F.one_hot(labels, 1000).float()
        mixed, target = 0.7 * images + 0.3 * images.flip(0), 0.7 * soft + 0.3 * soft.flip(0)
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(mixed), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(model)


def clip() -> None:
    """transformers' CLIPModel, text and vision against each other, in fp16 with a GradScaler: SGD with momentum."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6)
    vision = CLIPVisionConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6, patch_size=16
    )
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(2):
        tokens, images = torch.randint(0, 49000, (24, 77)).cuda(), torch.randn(24, 3, 224, 224).cuda()
        with torch.autocast("cuda", torch.float16):
            loss = model(input_ids=tokens, pixel_values=images, return_loss=True).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def segformer() -> None:
    """transformers' SegformerForSemanticSegmentation, whose logits are interpolated to the image's size: AdamW."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19)).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5)
    for _ in range(2):
        images, labels = torch.randn(4, 3, 256, 256).cuda(), torch.randint(0, 19, (4, 256, 256)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def video() -> None:
    """3d convolutions and batch norm over clips in fp32: SGD with Nesterov momentum, clipped values."""
    layers: list[nn.Module] = []
    for inside, out, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2)):
        layers += [nn.Conv3d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm3d(out), nn.ReLU(inplace=True)]
    model = nn.Sequential(
        *layers, nn.MaxPool3d(2), nn.Dropout3d(0.2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(256, 400)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for _ in range(2):
        clips, labels = torch.randn(4, 3, 16, 96, 96).cuda(), torch.randint(0, 400, (4,)).cuda()
        optimizer.zero_grad()
        F.cross_entropy(model(clips), labels).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()


def unet() -> None:
    """Denoising U-net: group norm, SiLU, attention in the middle, nearest upsampling, skip connections; EMA copy."""

    class Res(nn.Module):
        def __init__(self, inside: int, out: int) -> None:
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(8, inside), nn.Conv2d(inside, out, 3, padding=1)
            self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
            self.short = nn.Conv2d(inside, out, 1) if inside != out else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv1(F.silu(self.norm1(x)))
            return self.conv2(F.silu(self.norm2(y))) + self.short(x)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(4, 64, 3, padding=1), nn.Conv2d(64, 4, 3, padding=1)
            self.down1, self.down2, self.mid = Res(64, 128), Res(128, 256), Res(256, 256)
            self.attention = nn.MultiheadAttention(256, 4, batch_first=True)
            self.up1, self.up2 = Res(512, 128), Res(256, 64)

        def forward(self, x: Tensor) -> Tensor:
            a = self.down1(self.first(x))
            b = self.down2(F.avg_pool2d(a, 2))
            c = self.mid(F.avg_pool2d(b, 2))
            t = c.flatten(2).transpose(1, 2)
            c = c + self.attention(t, t, t, need_weights=False)[0].transpose(1, 2).reshape_as(c)
            y = self.up1(torch.cat([F.interpolate(c, scale_factor=2, mode="nearest"), b], 1))
            y = self.up2(torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), a], 1))
            return self.last(y)

    model = UNet().cuda()
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(3):
        clean, noise = torch.randn(8, 4, 64, 64, device="cuda"), torch.randn(8, 4, 64, 64, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.mse_loss(model(clean + noise).float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for own, other in zip(ema.parameters(), model.parameters(), strict=True):
                own.lerp_(other, 0.01)


def diffusion() -> None:
    """Denoiser with embedded time steps in channels-last, bilinear upsampling: bf16, micro-batches of two kinds,
    clipped, an averaged copy made with `foreach`."""

    def embedded(steps: Tensor, width: int) -> Tensor:
        angles = steps.float().unsqueeze(1) * torch.exp(
            -math.log(10000) * torch.arange(width // 2, device=steps.device) / (width // 2)
        )
        return torch.cat([angles.sin(), angles.cos()], -1)

    class Res(nn.Module):
        def __init__(self, inside: int, out: int) -> None:
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(32, inside), nn.Conv2d(inside, out, 3, padding=1)
            self.time = nn.Linear(256, 2 * out)
            self.norm2, self.conv2 = nn.GroupNorm(32, out), nn.Conv2d(out, out, 3, padding=1)
            self.short = nn.Conv2d(inside, out, 1) if inside != out else nn.Identity()

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
            y = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
            return self.conv2(F.silu(y)) + self.short(x)

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Sequential(nn.Linear(128, 256), nn.SiLU(), nn.Linear(256, 256))
            self.first, self.last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
            self.a, self.b, self.c = Res(64, 64), Res(128, 128), Res(256, 256)
            self.down1, self.down2 = nn.Conv2d(64, 128, 3, 2, 1), nn.Conv2d(128, 256, 3, 2, 1)
            self.d, self.e = Res(384, 128), Res(192, 64)

        def forward(self, x: Tensor, steps: Tensor) -> Tensor:
            time = self.time(embedded(steps, 128))
            a = self.a(self.first(x), time)
            b = self.b(self.down1(a), time)
            c = self.c(self.down2(b), time)
            y = F.interpolate(c, scale_factor=2.0, mode="bilinear", align_corners=False)
            y = self.d(torch.cat([y, b], 1), time)
            y = F.interpolate(y, size=a.shape[-2:], mode="bilinear", align_corners=False)
            return self.last(F.silu(self.e(torch.cat([y, a], 1), time)))

    model = Denoiser().to("cuda", memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, betas=(0.9, 0.99))
    noise_left = torch.linspace(0.9999, 0.98, 1000).cumprod(0).cuda()
    for _ in range(2):
        for batch in (8, 4):
            clean = torch.randn(batch, 3, 64, 64).cuda().to(memory_format=torch.channels_last)
            steps, noise = torch.randint(0, 1000, (batch,)).cuda(), torch.randn_like(clean)
            left = noise_left[steps].view(-1, 1, 1, 1)
            with torch.autocast("cuda", torch.bfloat16):
                made = model(left.sqrt() * clean + (1 - left).sqrt() * noise, steps)
                loss = F.mse_loss(made.float(), noise) / 2
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.001)


def gan() -> None:
    """Generator of transposed convolutions against a spectrally normed discriminator: two Adams, fp32."""
    up: list[nn.Module] = [nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False), nn.BatchNorm2d(512), nn.ReLU(True)]
    for width in (512, 256, 128):
        up += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU(True)]
    generator = nn.Sequential(*up, nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh()).cuda()
    down: list[nn.Module] = []
    for inside, out in ((3, 64), (64, 128), (128, 256), (256, 512)):
        down += [nn.utils.spectral_norm(nn.Conv2d(inside, out, 4, 2, 1)), nn.LeakyReLU(0.2, inplace=True)]
    judge = nn.Sequential(*down, nn.Conv2d(512, 1, 4), nn.Flatten()).cuda()
    first = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    second = torch.optim.Adam(judge.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for _ in range(2):
        real, noise = torch.randn(32, 3, 64, 64).cuda(), torch.randn(32, 100, 1, 1, device="cuda")
        made = generator(noise)
        second.zero_grad()
        (F.relu(1 - judge(real)).mean() + F.relu(1 + judge(made.detach())).mean()).backward()
        second.step()
        first.zero_grad()
        (-judge(made).mean()).backward()
        first.step()


VISION = (
    resnet, resnet_channels_last, vit, convnext, clip, segformer, video, unet, diffusion, gan,
)  # fmt: skip
