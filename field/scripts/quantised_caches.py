"""transformers' generate with a cache of keys and values in 4 bits, by quanto and by HQQ."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, head_dim=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
prompt = torch.randint(3, 1000, (1, 200), device="cuda")
for backend, axis in (("quanto", 0), ("hqq", 1)):
    cache = {"backend": backend, "nbits": 4, "residual_length": 16, "q_group_size": 64}
    cache |= {"axis_key": axis, "axis_value": axis}
    form = {"cache_implementation": "quantized", "cache_config": cache}
    made = model.generate(prompt, max_new_tokens=40, do_sample=False, **form)
    print(backend, tuple(made.shape))
