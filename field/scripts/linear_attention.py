"""flash-linear-attention: a gated linear attention and a DeltaNet, by their Triton kernels, trained."""

import torch
from fla.models import DeltaNetConfig, DeltaNetForCausalLM, GLAConfig, GLAForCausalLM

SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "vocab_size": 500, "intermediate_size": 256}
for config, kind in ((GLAConfig, GLAForCausalLM), (DeltaNetConfig, DeltaNetForCausalLM)):
    model = kind(config(**SIZES)).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        tokens = torch.randint(0, 500, (2, 128), device="cuda")
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(kind.__name__, loss.item())
