"""Mixtures of experts of transformers: Qwen3-MoE with its router's loss, DeepSeek-V3 with grouped top-k, GPT-OSS
with sinks, a training step and a generation of each."""

import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

torch.manual_seed(0)
common = {
    "vocab_size": 4000,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": None,
}
models = {
    "qwen3": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **common,
            head_dim=64,
            intermediate_size=512,
            moe_intermediate_size=192,
            num_experts=8,
            num_experts_per_tok=2,
            output_router_logits=True,
        )
    ),
    "deepseek": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **{**common, "num_key_value_heads": 4},
            intermediate_size=512,
            moe_intermediate_size=128,
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            first_k_dense_replace=1,
            kv_lora_rank=64,
            q_lora_rank=96,
            qk_rope_head_dim=32,
            qk_nope_head_dim=32,
            v_head_dim=64,
        )
    ),
    "oss": lambda: GptOssForCausalLM(
        GptOssConfig(
            **common, head_dim=64, intermediate_size=192, num_local_experts=8, num_experts_per_tok=2, sliding_window=64
        )
    ),
}
ids = torch.randint(1, 4000, (4, 160), device="cuda")
for name, make in models.items():
    model = make().cuda().to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for step in range(2):
        loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.config.output_router_logits = False
    print(
        name,
        loss.item(),
        model.generate(ids[:2, :40], max_new_tokens=8, do_sample=False).shape,
        torch.cuda.max_memory_allocated(),
    )
    del model, optimizer, loss
