"""Time series of transformers: PatchTST trained and forecasting, Informer with its distribution, Autoformer-like
decomposition; then an FT-transformer and TabNet-like on tables."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import (
    InformerConfig,
    InformerForPrediction,
    PatchTSTConfig,
    PatchTSTForPrediction,
    TimeSeriesTransformerConfig,
    TimeSeriesTransformerForPrediction,
)

torch.manual_seed(0)
patch = PatchTSTForPrediction(
    PatchTSTConfig(
        num_input_channels=7,
        context_length=256,
        prediction_length=48,
        patch_length=16,
        patch_stride=8,
        d_model=128,
        num_hidden_layers=3,
        num_attention_heads=8,
        ffn_dim=256,
        loss="mse",
    )
).cuda()
optimizer = torch.optim.AdamW(patch.parameters(), 1e-3)
for step in range(2):
    loss = patch(
        past_values=torch.randn(32, 256, 7, device="cuda"), future_values=torch.randn(32, 48, 7, device="cuda")
    ).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(loss.item(), patch.generate(past_values=torch.randn(4, 256, 7, device="cuda")).sequences.shape)
del patch, optimizer, loss
common = {
    "prediction_length": 24,
    "context_length": 72,
    "lags_sequence": [1, 2, 3, 7],
    "num_time_features": 2,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
for kind, config in (
    (TimeSeriesTransformerForPrediction, TimeSeriesTransformerConfig(**common)),
    (InformerForPrediction, InformerConfig(**common)),
):
    model = kind(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(2):
        loss = model(
            past_values=torch.rand(32, 79, device="cuda"),
            past_time_features=torch.rand(32, 79, 2, device="cuda"),
            past_observed_mask=torch.ones(32, 79, device="cuda"),
            future_values=torch.rand(32, 24, device="cuda"),
            future_time_features=torch.rand(32, 24, 2, device="cuda"),
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(kind.__name__, loss.item())
    del model, optimizer, loss


class FT(nn.Module):
    def __init__(self, numeric=20, categories=(10, 50, 100), d=192):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(numeric, d)), nn.Parameter(torch.zeros(numeric + len(categories), d))
        self.emb, self.cls = nn.Embedding(sum(categories), d), nn.Parameter(torch.zeros(d))
        self.register_buffer("offsets", torch.tensor([0, *categories[:-1]]).cumsum(0))
        self.enc = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(d, 8, 256, 0.1, "gelu", batch_first=True, norm_first=True),
            3,
            enable_nested_tensor=False,
        )
        self.head = nn.Sequential(nn.LayerNorm(d), nn.ReLU(), nn.Linear(d, 1))

    def forward(self, x, c):
        tokens = torch.cat([self.w * x[..., None], self.emb(c + self.offsets)], 1) + self.b
        return self.head(self.enc(torch.cat([self.cls.expand(len(x), 1, -1), tokens], 1))[:, 0])


net = FT().cuda()
optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
for step in range(3):
    x, c = torch.randn(512, 20, device="cuda"), torch.randint(0, 10, (512, 3), device="cuda")
    loss = F.binary_cross_entropy_with_logits(net(x, c).squeeze(-1), torch.randint(0, 2, (512,), device="cuda").float())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
net.eval()
with torch.no_grad():
    probability = net(x, c).sigmoid()
    order = probability.squeeze().argsort(descending=True)
    print(loss.item(), order.shape, (probability > 0.5).float().mean().item() >= 0)
