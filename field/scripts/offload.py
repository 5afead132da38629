"""accelerate's big model inference: dispatch with CPU offload, hooks, init_empty_weights and a checkpoint from
disk; then layers by hand to and fro."""

import tempfile

import torch
from accelerate import (
    cpu_offload,
    infer_auto_device_map,
    init_empty_weights,
    load_checkpoint_and_dispatch,
)
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
config = GPT2Config(vocab_size=8000, n_positions=256, n_embd=512, n_layer=8, n_head=8, tie_word_embeddings=False)
folder = tempfile.mkdtemp()
GPT2LMHeadModel(config).save_pretrained(folder)
ids = torch.randint(0, 8000, (4, 128), device="cuda")
with init_empty_weights():
    empty = GPT2LMHeadModel(config)
where = infer_auto_device_map(empty, max_memory={0: "60MiB", "cpu": "4GiB"}, no_split_module_classes=["GPT2Block"])
model = load_checkpoint_and_dispatch(empty, folder, device_map=where, no_split_module_classes=["GPT2Block"])
with torch.no_grad():
    print(len(set(where.values())), model(ids).logits.shape)
    print(model.generate(ids[:, :32], max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0).shape)
del model, empty
model = cpu_offload(GPT2LMHeadModel(config), execution_device=0)
with torch.no_grad():
    print(model(ids).logits.shape)
del model
model = GPT2LMHeadModel.from_pretrained(folder, device_map="cuda", dtype=torch.bfloat16)
with torch.no_grad():
    print(model(ids).logits.dtype)
