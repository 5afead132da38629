"""More ordinary training loops, of kinds that `workloads.py` has not: run, recorded and predicted by the commands there.

None of them was looked at while the rules were written. Public libraries' models are built from configurations alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Workload = Callable[[], None]


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
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 1000)).cuda()
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


def mixtral() -> None:
    """Experts that take what the router sends them, two of eight a token: sizes that depend on data."""

    class Experts(nn.Module):
        def __init__(self, width: int, count: int) -> None:
            super().__init__()
            self.norm, self.router = nn.LayerNorm(width), nn.Linear(width, count, bias=False)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)) for _ in range(count)
            )

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.norm(x).flatten(0, 1)
            weight, chosen = self.router(tokens).softmax(-1).topk(2, dim=-1)
            weight = weight / weight.sum(-1, keepdim=True)
            result = torch.zeros_like(tokens)
            for index, expert in enumerate(self.experts):
                row, place = torch.where(chosen == index)
                made = expert(tokens[row]) * weight[row, place].unsqueeze(-1)
                result.index_add_(0, row, made.to(result.dtype))
            return x + result.view_as(x)

    model = nn.Sequential(nn.Embedding(8000, 512), *[Experts(512, 8) for _ in range(3)], nn.Linear(512, 8000)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        tokens = torch.randint(0, 8000, (8, 512)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def packed() -> None:
    """GRU encoder over packed sequences and a decoder that attends to it, in fp16 with a GradScaler: Adamax."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12000, 256, padding_idx=0)
            self.encoder = nn.GRU(256, 256, 2, batch_first=True, bidirectional=True, dropout=0.2)
            self.decoder, self.look = nn.GRU(256, 512, batch_first=True), nn.Linear(512, 512, bias=False)
            self.head = nn.Linear(1024, 12000)

        def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
            sorted_ = nn.utils.rnn.pack_padded_sequence(self.embed(source), lengths, batch_first=True, enforce_sorted=False)
            memory, _ = nn.utils.rnn.pad_packed_sequence(self.encoder(sorted_)[0], batch_first=True)
            states, _ = self.decoder(self.embed(target))
            scores = torch.bmm(self.look(states), memory.transpose(1, 2))
            hidden = torch.arange(memory.shape[1], device=memory.device) >= lengths.to(memory.device).unsqueeze(1)
            around = torch.bmm(scores.masked_fill(hidden.unsqueeze(1), float("-inf")).softmax(-1), memory)
            return self.head(torch.cat([states, around], -1))

    model = Model().cuda()
    optimizer = torch.optim.Adamax(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    for step in range(2):
        lengths = torch.tensor([60 - (7 * place + step) % 40 for place in range(32)])
        source = torch.randint(1, 12000, (32, 60))
        source[torch.arange(60) >= lengths.unsqueeze(1)] = 0
        target = torch.randint(1, 12000, (32, 48)).cuda()
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(source.cuda(), lengths, target).flatten(0, 1), target.flatten(), ignore_index=0)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()


def t5() -> None:
    """transformers' T5ForConditionalGeneration in fp32: Adafactor, labels alone."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=384, d_ff=1024, d_kv=64, num_heads=6, num_layers=4, vocab_size=20000, use_cache=False)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config).cuda().train()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    for _ in range(2):
        tokens, labels = torch.randint(0, 20000, (8, 256)).cuda(), torch.randint(0, 20000, (8, 96)).cuda()
        loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def whisper() -> None:
    """transformers' WhisperForConditionalGeneration in bf16 autocast: fused Adam, clipped."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6,
        encoder_ffn_dim=1536, decoder_ffn_dim=1536, use_cache=False,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).cuda().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    for _ in range(2):
        sound, labels = torch.randn(4, 80, 3000).cuda(), torch.randint(0, 50000, (4, 128)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_features=sound, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


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


def diffusion() -> None:
    """Denoiser with embedded time steps in channels-last, bilinear upsampling: bf16, micro-batches of two kinds, clipped,
    an averaged copy made with `foreach`."""

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


def speech() -> None:
    """Waveforms through strided 1d convolutions and a bidirectional LSTM to CTC loss in fp32: Adam with AMSGrad."""
    front = nn.Sequential(
        nn.Conv1d(1, 128, 10, 5), nn.GroupNorm(128, 128), nn.GELU(),
        nn.Conv1d(128, 256, 8, 4), nn.GELU(), nn.Conv1d(256, 256, 4, 2), nn.GELU(), nn.Conv1d(256, 256, 4, 2), nn.GELU(),
    ).cuda()  # fmt: skip
    body = nn.LSTM(256, 256, 2, batch_first=True, bidirectional=True).cuda()
    head = nn.Linear(512, 40).cuda()
    parameters = [*front.parameters(), *body.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, amsgrad=True)
    for _ in range(2):
        wave = torch.randn(8, 1, 32000).cuda()
        labels = torch.randint(1, 40, (8, 30)).cuda()
        y = head(body(front(wave).transpose(1, 2))[0]).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((8,), y.shape[0], dtype=torch.long, device="cuda")
        wanted = torch.tensor([30, 28, 25, 30, 20, 22, 30, 18], device="cuda")
        loss = F.ctc_loss(y, labels, lengths, wanted, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def graph() -> None:
    """Attention over a graph's edges: index_select, scatter_add, scatter_reduce, a softmax over neighbours; NAdam."""

    class Layer(nn.Module):
        def __init__(self, inside: int, out: int) -> None:
            super().__init__()
            self.lift, self.score = nn.Linear(inside, out), nn.Linear(2 * out, 1)
            self.norm = nn.BatchNorm1d(out)

        def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
            x = self.lift(x)
            left, right = x.index_select(0, source), x.index_select(0, target)
            score = F.leaky_relu(self.score(torch.cat([left, right], -1)).squeeze(-1), 0.2)
            top = torch.full((x.shape[0],), float("-inf"), device=x.device)
            top = top.scatter_reduce(0, target, score.detach(), "amax", include_self=True)
            weight = (score - top[target]).exp()
            total = torch.zeros(x.shape[0], device=x.device).scatter_add(0, target, weight)
            message = left * (weight / total[target].clamp_min(1e-9)).unsqueeze(-1)
            return F.elu(self.norm(x + torch.zeros_like(x).index_add(0, target, message)))

    layers = nn.ModuleList([Layer(128, 256), Layer(256, 256), Layer(256, 256)]).cuda()
    head = nn.Linear(256, 47).cuda()
    optimizer = torch.optim.NAdam([*layers.parameters(), *head.parameters()])
    features = torch.randn(20000, 128).cuda()
    edges, labels = torch.randint(0, 20000, (2, 120000)).cuda(), torch.randint(0, 47, (20000,)).cuda()
    chosen = torch.randperm(20000)[:8000].cuda()
    for _ in range(2):
        x = features
        for layer in layers:
            x = F.dropout(layer(x, edges[0], edges[1]), 0.3)
        loss = F.cross_entropy(head(x)[chosen], labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def clicks() -> None:
    """Embedding tables with sparse gradients under SparseAdam, dense layers under Adagrad, in fp32."""
    users, items = nn.Embedding(300_000, 64, sparse=True).cuda(), nn.Embedding(100_000, 64, sparse=True).cuda()
    words = nn.EmbeddingBag(50_000, 64, mode="mean", sparse=True).cuda()
    mlp = nn.Sequential(nn.Linear(192, 256), nn.BatchNorm1d(256), nn.Softplus(), nn.Linear(256, 1)).cuda()
    sparse = torch.optim.SparseAdam([*users.parameters(), *items.parameters(), *words.parameters()])
    dense = torch.optim.Adagrad(mlp.parameters(), lr=0.01)
    for _ in range(2):
        who, what = torch.randint(0, 300_000, (8192,)).cuda(), torch.randint(0, 100_000, (8192,)).cuda()
        said, starts = torch.randint(0, 50_000, (8192 * 5,)).cuda(), torch.arange(0, 8192 * 5, 5).cuda()
        x = torch.cat([users(who), items(what), words(said, starts)], -1)
        loss = F.binary_cross_entropy_with_logits(mlp(x).squeeze(1), torch.rand(8192, device="cuda"))
        for optimizer in (sparse, dense):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (sparse, dense):
            optimizer.step()


def padded() -> None:
    """nn.MultiheadAttention with a key padding mask, weights wanted in one layer and not in the other, on a long axis of
    its own: RAdam for-loop form in fp32, evaluation and a saved state between steps."""

    class Layer(nn.Module):
        def __init__(self, width: int, weights: bool) -> None:
            super().__init__()
            self.attention, self.weights = nn.MultiheadAttention(width, 8, dropout=0.1, batch_first=True), weights
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4 * width, width))

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            y, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=self.weights)
            x = self.norm1(x + y)
            return self.norm2(x + self.mlp(x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layers = nn.Embedding(5000, 320), nn.ModuleList([Layer(320, True), Layer(320, False)])
            self.head = nn.Linear(320, 12)

        def forward(self, tokens: Tensor) -> Tensor:
            padding = tokens == 0
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x, padding)
            seen = (~padding).unsqueeze(-1)
            return self.head((x * seen).sum(1) / seen.sum(1).clamp_min(1))

    model = Model().cuda()
    optimizer = torch.optim.RAdam(model.parameters(), foreach=False)
    for _ in range(2):
        tokens = torch.randint(1, 5000, (16, 200))
        tokens[:, 150:] = 0
        labels = torch.randint(0, 12, (16,)).cuda()
        loss = F.cross_entropy(model(tokens.cuda()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        saved = {name: value.clone() for name, value in model.state_dict().items()}
        model.eval()
        with torch.inference_mode():
            model(tokens.cuda()).argmax(-1)
        model.load_state_dict(saved)
        model.train()


def adapters() -> None:
    """A frozen bf16 decoder with low-rank adapters in fp32 and reentrant checkpoints: AdamW over the adapters, clipped."""

    class Adapted(nn.Module):
        def __init__(self, inside: int, out: int) -> None:
            super().__init__()
            self.base = nn.Linear(inside, out, bias=False, dtype=torch.bfloat16).requires_grad_(False)
            self.down, self.up = nn.Linear(inside, 16, bias=False), nn.Linear(16, out, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + 2.0 * self.up(self.down(F.dropout(x, 0.05).float())).to(x.dtype)

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1 = nn.RMSNorm(width, dtype=torch.bfloat16).requires_grad_(False)
            self.norm2 = nn.RMSNorm(width, dtype=torch.bfloat16).requires_grad_(False)
            self.qkv, self.out = Adapted(width, 3 * width), Adapted(width, width)
            self.gate, self.up, self.down = Adapted(width, 3 * width), Adapted(width, 3 * width), Adapted(3 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            b, s, w = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(b, s, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, w)
            x = x + self.out(y)
            y = self.norm2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    embed = nn.Embedding(16000, 768, dtype=torch.bfloat16).requires_grad_(False).cuda()
    blocks = nn.ModuleList(Block(768, 12) for _ in range(6)).cuda()
    head = nn.Linear(768, 16000, bias=False, dtype=torch.bfloat16).requires_grad_(False).cuda()
    trained = [p for p in blocks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    for _ in range(2):
        tokens = torch.randint(0, 16000, (4, 512)).cuda()
        x = embed(tokens).requires_grad_()
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=True)
        logits = head(x)[:, :-1].float()
        loss = F.cross_entropy(logits.reshape(-1, 16000), tokens[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


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


def scan() -> None:
    """A linear recurrence by cumulative sums, causal depthwise 1d convolution and gates in bf16: AdamW without autocast,
    complex rotations of the keys."""

    class Mixer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm, self.lift = nn.RMSNorm(width), nn.Linear(width, 3 * width, bias=False)
            self.near = nn.Conv1d(width, width, 4, groups=width, padding=3)
            self.drop = nn.Linear(width, width, bias=False)

        def forward(self, x: Tensor, turn: Tensor) -> Tensor:
            value, gate, decay = self.lift(self.norm(x)).chunk(3, dim=-1)
            value = F.silu(self.near(value.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
            pairs = torch.view_as_complex(value.float().unflatten(-1, (-1, 2)).contiguous())
            value = torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
            log = F.logsigmoid(decay.float()).cumsum(1)
            state = (value * torch.exp(-log).clamp_max(1e4)).cumsum(1) * torch.exp(log)
            return x + self.drop(state.to(x.dtype) * F.sigmoid(gate))

    width = 512
    embed, layers = nn.Embedding(10000, width), nn.ModuleList(Mixer(width) for _ in range(4))
    head = nn.Linear(width, 10000, bias=False)
    model = nn.ModuleList([embed, layers, head]).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    angles = torch.outer(torch.arange(512).float(), 10000 ** (-torch.arange(width // 2).float() / (width // 2)))
    turn = torch.polar(torch.ones_like(angles), angles).cuda()
    for _ in range(2):
        tokens = torch.randint(0, 10000, (6, 512)).cuda()
        x = embed(tokens)
        for layer in layers:
            x = layer(x, turn)
        loss = F.cross_entropy(head(x).float().flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def retrieval() -> None:
    """Two towers with the hardest negatives: normalised embeddings, log-sum-exp, top-k, gather, triplet and cosine losses;
    ASGD over one tower and Adadelta over the other."""
    first = nn.Sequential(nn.Linear(512, 1024), nn.LayerNorm(1024), nn.Tanh(), nn.Linear(1024, 256)).cuda()
    second = nn.Sequential(nn.Linear(300, 1024), nn.InstanceNorm1d(1024), nn.Hardswish(), nn.Linear(1024, 256)).cuda()
    optimizers: list[Any] = [torch.optim.ASGD(first.parameters()), torch.optim.Adadelta(second.parameters())]
    for _ in range(2):
        left, right = torch.randn(1024, 512).cuda(), torch.randn(1024, 300).cuda()
        a, b = F.normalize(first(left), dim=-1), F.normalize(second(right), dim=-1)
        scores = a @ b.t() / 0.07
        own = torch.eye(1024, dtype=torch.bool, device="cuda")
        hardest = scores.masked_fill(own, float("-inf")).topk(8, dim=-1).indices
        negative = b[hardest[:, 0]]
        spread = torch.gather(scores, 1, hardest).logsumexp(-1).mean()
        loss = F.triplet_margin_loss(a, b, negative) + F.cosine_embedding_loss(a, b, torch.ones(1024, device="cuda"))
        loss = loss + spread + F.cross_entropy(scores, torch.arange(1024, device="cuda"))
        loss = loss + F.kl_div(scores.log_softmax(-1), scores.detach().t().softmax(-1), reduction="batchmean")
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def ragged() -> None:
    """Sentences of unlike lengths as jagged nested tensors through attention without padding: AdamW in bf16."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
            q, k, v = (part.unflatten(-1, [self.heads, -1]).transpose(1, 2) for part in (q, k, v))
            x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
            return x + self.down(F.gelu(self.up(x)))

    embed, blocks = nn.Embedding(10000, 384), nn.ModuleList(Block(384, 6) for _ in range(4))
    head = nn.Linear(384, 10000)
    model = nn.ModuleList([embed, blocks, head]).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(2):
        lengths = [400 - 23 * place for place in range(12)]
        tokens = torch.randint(0, 10000, (sum(lengths),)).cuda()
        offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]).cuda()
        x = torch.nested.nested_tensor_from_jagged(embed(tokens), offsets, min_seqlen=min(lengths), max_seqlen=400)
        for block in blocks:
            x = block(x)
        loss = F.cross_entropy(head(x.values()).float(), tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


MORE: dict[str, Workload] = {
    run.__name__: run
    for run in (
        convnext, mixtral, packed, t5, whisper, clip, segformer, video, diffusion, speech, graph, clicks, padded, adapters,
        gan, scan, retrieval, ragged,
    )
}  # fmt: skip
SELECTED = {"mixtral": 0.125}
"""For workloads whose sizes depend on data: the share of the bound. Two of eight experts a token: an eighth of the pairs."""
