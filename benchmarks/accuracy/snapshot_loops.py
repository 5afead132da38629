"""Four training loops of which snapshots were recorded on an H200; `recurrent` of the tests is `tagger`, of 3 steps."""

import torch
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20000, 256)
        self.lstm = nn.LSTM(256, 512, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.norm = nn.LayerNorm(1024)
        self.tags = nn.Linear(1024, 3000)

    def forward(self, tokens):
        states, _ = self.lstm(self.words(tokens))
        return self.tags(self.norm(F.relu(states)))


class Wrapped(nn.Module):
    """A backbone of timm with a head of one's own."""

    def __init__(self, name):
        super().__init__()
        import timm

        self.backbone = timm.create_model(name, num_classes=0)
        self.head = nn.Linear(self.backbone.num_features, 100)

    def forward(self, images):
        features = self.backbone(images)
        return self.head(F.dropout(features, 0.1, self.training))


def qwen(begin, steps):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=24000, hidden_size=512, intermediate_size=1408, num_hidden_layers=4,
                         num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024)
    begin(0)
    model = Qwen2ForCausalLM(config).to("cuda")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for i in range(steps):
        tokens = torch.randint(0, 24000, (4, 512), device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            outputs = model(input_ids=tokens, labels=tokens)
            loss = outputs.loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        begin(i + 1)


def efficientnet(begin, steps):
    torch.manual_seed(0)
    begin(0)
    model = Wrapped("efficientnet_b0").cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for i in range(steps):
        images = torch.randn(32, 3, 160, 160).cuda(non_blocking=True)
        labels = torch.randint(0, 100, (32,)).cuda()
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        begin(i + 1)


def tagger(begin, steps):
    torch.manual_seed(0)
    begin(0)
    model = Tagger().to("cuda")
    optimizer = torch.optim.Adam(model.parameters())
    for i in range(steps):
        tokens = torch.randint(0, 20000, (32, 128), device="cuda")
        tags = torch.randint(0, 3000, (32, 128), device="cuda")
        logits = model(tokens)
        loss = F.cross_entropy(logits.view(-1, 3000), tags.view(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        begin(i + 1)


def vit(begin, steps):
    torch.manual_seed(0)
    begin(0)
    model = Wrapped("vit_tiny_patch16_224").to("cuda")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    for i in range(steps):
        images = torch.randn(16, 3, 224, 224, device="cuda")
        labels = torch.randint(0, 100, (16,), device="cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        begin(i + 1)


MODELS = {"qwen": qwen, "efficientnet": efficientnet, "tagger": tagger, "vit": vit}
