"""Liger's kernels in a Llama: fused loss, RMS norm, SwiGLU, rotary embedding."""

import torch
from figures import size, states, told
from liger_kernel.transformers import (
    LigerFusedLinearCrossEntropyLoss,
    apply_liger_kernel_to_llama,
)
from transformers import LlamaConfig, LlamaForCausalLM

apply_liger_kernel_to_llama()
config = LlamaConfig(
    vocab_size=8000, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8
)
model = LlamaForCausalLM(config).to("cuda", torch.bfloat16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
for _ in range(3):
    tokens = torch.randint(0, 8000, (4, 512), device="cuda")
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    print(loss.item())
told(parameters=size(model.parameters()), optimizer_state=states(optimizer))
hidden, head = torch.randn(1024, 512, device="cuda", requires_grad=True), torch.nn.Linear(512, 8000, bias=False).cuda()
LigerFusedLinearCrossEntropyLoss()(head.weight, hidden, torch.randint(0, 8000, (1024,), device="cuda")).backward()
