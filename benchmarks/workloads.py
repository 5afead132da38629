"""Ordinary training loops of many kinds, each a function that runs some steps on `cuda`: real or virtual alike.

    python benchmarks/workloads.py record FOLDER [more | name ...]     on a real GPU
    python benchmarks/workloads.py predict [more | name ...]           against benchmarks/workload_recordings

None of them was looked at while the rules were written. Public libraries are used where they are installed.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from more_workloads import MORE, SELECTED
from torch import Tensor, nn

from memgraph.trace import Trace

Workload = Callable[[], None]
FOLDER = Path(__file__).parent / "workload_recordings"


def decoder() -> None:
    """GPT-style decoder with a tied head: fused AdamW, bf16 autocast, clipping."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Tensor) -> Tensor:
            b, s, w = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(b, s, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, w))
            return x + self.mlp(self.norm2(x))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(32000, 768), nn.Embedding(1024, 768)
            self.blocks = nn.ModuleList(Block(768, 12) for _ in range(8))
            self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 32000, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), tokens.flatten())

    model = Decoder().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(3):
        tokens = torch.randint(0, 32000, (6, 640)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


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

    import copy

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


def lstm() -> None:
    """Two-layer LSTM language model with dropout in fp32: SGD, clipped gradients, carried state."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.drop = nn.Embedding(20000, 650), nn.Dropout(0.5)
            self.rnn, self.head = nn.LSTM(650, 650, 2, dropout=0.5), nn.Linear(650, 20000)

        def forward(self, x: Tensor, state: Any) -> Any:
            y, state = self.rnn(self.drop(self.embed(x)), state)
            return self.head(self.drop(y)), state

    model = Model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    state = None
    for _ in range(3):
        x = torch.randint(0, 20000, (35, 40)).cuda()
        optimizer.zero_grad()
        logits, state = model(x, state)
        state = tuple(part.detach() for part in state)
        loss = F.cross_entropy(logits.view(-1, 20000), x.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()


def gru() -> None:
    """Bidirectional GRU over spectrograms with a convolutional front and CTC-free frame labels: Adam."""
    front = nn.Sequential(
        nn.Conv1d(80, 256, 5, 2, 2), nn.BatchNorm1d(256), nn.ReLU(), nn.Conv1d(256, 256, 5, 2, 2), nn.ReLU()
    ).cuda()
    rnn = nn.GRU(256, 320, 3, batch_first=True, bidirectional=True).cuda()
    head = nn.Linear(640, 500).cuda()
    modules = nn.ModuleList([front, rnn, head])
    optimizer = torch.optim.Adam(modules.parameters())
    for _ in range(3):
        sound = torch.randn(16, 80, 800, device="cuda")
        labels = torch.randint(0, 500, (16, 200), device="cuda")
        y, _ = rnn(front(sound).transpose(1, 2))
        loss = F.cross_entropy(head(y).transpose(1, 2), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def routed() -> None:
    """Mixture of experts with a fixed capacity: top-k routing, gather and scatter; AdamW, bf16 autocast."""

    class Experts(nn.Module):
        def __init__(self, width: int, count: int, capacity: int) -> None:
            super().__init__()
            self.router, self.capacity = nn.Linear(width, count, bias=False), capacity
            self.up = nn.Parameter(torch.randn(count, width, 4 * width) * 0.02)
            self.down = nn.Parameter(torch.randn(count, 4 * width, width) * 0.02)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(0, 1)
            share = self.router(tokens).softmax(-1)
            weight, chosen = share.t().topk(self.capacity, dim=-1)
            picked = tokens[chosen.flatten()].view(*chosen.shape, -1)
            made = torch.bmm(F.gelu(torch.bmm(picked, self.up)), self.down) * weight.unsqueeze(-1)
            result = torch.zeros_like(tokens).index_add_(0, chosen.flatten(), made.flatten(0, 1).to(tokens.dtype))
            return x + result.view_as(x)

    model = nn.Sequential(
        nn.Embedding(8000, 512), *[Experts(512, 8, 1024) for _ in range(4)], nn.LayerNorm(512), nn.Linear(512, 8000)
    )
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        tokens = torch.randint(0, 8000, (8, 512), device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


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


def translator() -> None:
    """nn.Transformer, encoder and decoder, in fp32 with masks: Adam for-loop form, evaluation between steps."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Embedding(10000, 256), nn.Transformer(256, 8, 3, 3, 1024, 0.1, batch_first=True)
            self.head = nn.Linear(256, 10000)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
            return self.head(self.body(self.embed(source), self.embed(target), tgt_mask=mask))

    model = Model().cuda()
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    for _ in range(2):
        source, target = torch.randint(0, 10000, (16, 96)).cuda(), torch.randint(0, 10000, (16, 80)).cuda()
        loss = F.cross_entropy(model(source, target).transpose(1, 2), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            model(source, target).argmax(-1)
        model.train()


def recommender() -> None:
    """Embedding bags with sums of ids, crossed features and an MLP in fp32: Adagrad, binary cross-entropy."""
    tables = nn.ModuleList(nn.EmbeddingBag(200_000, 64, mode="sum") for _ in range(6)).cuda()
    mlp = nn.Sequential(
        nn.Linear(6 * 64 + 13, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
    ).cuda()
    optimizer = torch.optim.Adagrad([*tables.parameters(), *mlp.parameters()], lr=0.01)
    for _ in range(3):
        ids = torch.randint(0, 200_000, (6, 4096, 4), device="cuda")
        dense, clicked = torch.randn(4096, 13, device="cuda"), torch.rand(4096, device="cuda").round()
        bags = [table(index) for table, index in zip(tables, ids, strict=True)]
        loss = F.binary_cross_entropy_with_logits(mlp(torch.cat([*bags, dense], 1)).squeeze(1), clicked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def llama() -> None:
    """transformers' LlamaForCausalLM with grouped keys and gradient checkpointing: Adafactor, pure bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16000, hidden_size=768, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=1024, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to("cuda", torch.bfloat16)
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.Adafactor(model.parameters())
    for _ in range(2):
        tokens = torch.randint(0, 16000, (4, 768), device="cuda")
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def bert() -> None:
    """transformers' BertForMaskedLM in bf16 autocast: AdamW with two parameter groups."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048)
    model = BertForMaskedLM(config).cuda().train()
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}])
    for _ in range(2):
        tokens = torch.randint(0, 30000, (12, 256), device="cuda")
        mask = torch.ones_like(tokens)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=tokens, attention_mask=mask, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def points() -> None:
    """Point clouds: pairwise distances, nearest neighbours, gather, max over them, sort; RMSprop."""
    first, second = nn.Linear(6, 64).cuda(), nn.Linear(128, 256).cuda()
    head = nn.Sequential(nn.Linear(256, 128), nn.PReLU(), nn.Linear(128, 40)).cuda()
    optimizer = torch.optim.RMSprop([*first.parameters(), *second.parameters(), *head.parameters()])
    for _ in range(3):
        cloud, labels = torch.randn(8, 1024, 3, device="cuda"), torch.randint(0, 40, (8,), device="cuda")
        near = torch.cdist(cloud, cloud).topk(16, largest=False).indices
        around = torch.gather(cloud.unsqueeze(1).expand(-1, 1024, -1, -1), 2, near.unsqueeze(-1).expand(-1, -1, -1, 3))
        x = F.relu(first(torch.cat([around, around - cloud.unsqueeze(2)], -1))).amax(2)
        x = torch.cat([x, x.sort(1).values], -1)
        loss = F.nll_loss(head(second(x).max(1).values).log_softmax(-1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


WORKLOADS: dict[str, Workload] = {
    run.__name__: run
    for run in (
        decoder, resnet, resnet_channels_last, unet, lstm, gru, routed, vit, translator, recommender, llama, bert, points,
    )
} | MORE  # fmt: skip


def record(name: str, folder: Path) -> None:
    """Run one on the GPU that is there and write what its allocator did."""
    from recordings import pack

    from memgraph.capture.history import record_history

    torch.manual_seed(0)
    with record_history({"workload": name}) as history:
        WORKLOADS[name]()
        torch.cuda.synchronize()
    trace = history.trace
    actions, buffers, _, addresses, sizes = (column.tolist() for column in trace.events.columns)
    run = {
        "settings": dict(trace.settings), "gpu": trace.gpu, "torch": trace.torch, "phases": [list(p) for p in trace.phases],
        "actions": actions, "buffers": buffers, "addresses": addresses, "sizes": sizes,
        "requested": [buffer.size for buffer in trace.buffers],
    }  # fmt: skip
    text = json.dumps(pack(run), separators=(",", ":")).encode()
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))


def record_all(names: list[str], folder: Path, at_once: int = 4) -> None:
    """Each in a process of its own; several at once share the card, and nothing of their allocators."""
    folder.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> str:
        command = [sys.executable, __file__, "record", str(folder), name]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return "recorded" if result.returncode == 0 else " ".join(result.stderr.strip().splitlines()[-1:])

    with ThreadPoolExecutor(at_once) as pool:
        for name, outcome in zip(names, pool.map(run, names), strict=True):
            print(name, outcome, flush=True)


def main() -> None:
    command, *rest = sys.argv[1:]
    if command == "record":
        folder, *names = rest
        if len(names) == 1 and names[0] in WORKLOADS:
            record(names[0], Path(folder))
        else:
            record_all(list(MORE) if names == ["more"] else names or list(WORKLOADS), Path(folder))
        return
    for name in MORE if rest == ["more"] else rest or WORKLOADS:
        print(name, *predict(name), flush=True)


def trace_of(name: str) -> Trace:
    """One on a virtual H200."""
    import memgraph

    torch.manual_seed(0)
    with memgraph.virtual_gpu("h200", select=SELECTED.get(name, 1.0), workload=name) as gpu:
        WORKLOADS[name]()
    gpu.trace.self_check()
    return gpu.trace


def predict(name: str) -> tuple[str, ...]:
    """One on a virtual H200, and how far it is off where a recording is there."""
    trace = trace_of(name)
    path = FOLDER / f"{name}.json.gz"
    notes = (*trace.assumptions, *(f"unknown: {op}" for op in trace.unknown_ops))
    if not path.exists():
        return (str(trace.peak[:3]), *notes)
    from accuracy import matched
    from recordings import allocated_by, read

    real = read(path)
    _, peak = allocated_by(trace, real.torch)
    same = matched([b.size for b in trace.buffers], [b.size for b in real.buffers])
    errors = [f"{100 * (own / other - 1):+.3f} %" for own, other in zip(peak, real.peak[:3], strict=True)]
    return (f"{same}/{len(real.buffers)} ({len(trace.buffers)})", *errors, *notes)


if __name__ == "__main__":
    main()
