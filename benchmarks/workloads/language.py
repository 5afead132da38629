"""Training loops over text, each a function that runs some steps on `cuda`. See `loops.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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


def adapters() -> None:
    """A frozen bf16 decoder with low-rank adapters in fp32 and reentrant checkpoints: AdamW over the adapters,
    clipped."""

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
            self.gate, self.up = Adapted(width, 3 * width), Adapted(width, 3 * width)
            self.down = Adapted(3 * width, width)

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


def padded() -> None:
    """nn.MultiheadAttention with a key padding mask, weights wanted in one layer and not in the other, on a long axis
    of its own: RAdam for-loop form in fp32, evaluation and a saved state between steps."""

    class Layer(nn.Module):
        def __init__(self, width: int, weights: bool) -> None:
            super().__init__()
            self.attention, self.weights = nn.MultiheadAttention(width, 8, dropout=0.1, batch_first=True), weights
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4 * width, width)
            )

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
            sorted_ = nn.utils.rnn.pack_padded_sequence(
                self.embed(source), lengths, batch_first=True, enforce_sorted=False
            )
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
            loss = F.cross_entropy(
                model(source.cuda(), lengths, target).flatten(0, 1), target.flatten(), ignore_index=0
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()


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


def scan() -> None:
    """A linear recurrence by cumulative sums, causal depthwise 1d convolution and gates in bf16: AdamW without
    autocast, complex rotations of the keys."""

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


LANGUAGE = (
    decoder, llama, adapters, ragged, bert, padded, lstm, packed, translator, t5, routed, mixtral, scan,
)  # fmt: skip
