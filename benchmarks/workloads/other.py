"""Training loops over sound, tables, graphs and points, each a function that runs some steps on `cuda`. See
`loops.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def speech() -> None:
    """Waveforms through strided 1d convolutions and a bidirectional LSTM to CTC loss in fp32: Adam with AMSGrad."""
    front = nn.Sequential(
        nn.Conv1d(1, 128, 10, 5), nn.GroupNorm(128, 128), nn.GELU(),
        nn.Conv1d(128, 256, 8, 4), nn.GELU(), nn.Conv1d(256, 256, 4, 2), nn.GELU(),
        nn.Conv1d(256, 256, 4, 2), nn.GELU(),
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


def retrieval() -> None:
    """Two towers with the hardest negatives: normalised embeddings, log-sum-exp, top-k, gather, triplet and cosine
    losses; ASGD over one tower and Adadelta over the other."""
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


OTHER = (
    gru, speech, whisper, recommender, clicks, retrieval, graph, points,
)  # fmt: skip
