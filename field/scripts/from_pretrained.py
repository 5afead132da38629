"""transformers' from_pretrained of a saved folder by each device_map, safetensors and torch.load by each way."""

import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, pipeline
from words import sentence, tokenizer

config = LlamaConfig(
    vocab_size=1000, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8
)
with tempfile.TemporaryDirectory() as folder:
    made = LlamaForCausalLM(config).to("cuda")
    figure = sum(p.numel() for p in made.parameters())
    made.save_pretrained(folder, max_shard_size="4MB")
    tokenizer().save_pretrained(folder)
    torch.save(made.state_dict(), f"{folder}/whole.pt")
    save_model(made, f"{folder}/whole.safetensors")
    del made
    for where in ("auto", "cuda", "cuda:0", {"": 0}, "balanced", "sequential", torch.device("cuda")):
        before = torch.cuda.memory_allocated()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map=where)
        print(where, model.device, torch.cuda.memory_allocated() - before, 2 * figure)
        del model
    model = AutoModelForCausalLM.from_pretrained(folder, low_cpu_mem_usage=True, dtype="auto").cuda()
    model.load_state_dict(
        torch.load(f"{folder}/whole.pt", mmap=True, weights_only=True, map_location="cpu"), assign=True
    )
    model.cuda()
    print(torch.cuda.memory_allocated(), 4 * figure)
    model.load_state_dict(load_file(f"{folder}/whole.safetensors", device="cuda"), strict=False)
    load_model(model, f"{folder}/whole.safetensors")
    with safe_open(f"{folder}/whole.safetensors", "pt", device="cuda:0") as file:
        print(len(file.keys()), file.get_slice(next(iter(file.keys())))[:2].shape)
    save_file({"a": torch.zeros(4, 4, device="cuda")}, f"{folder}/small.safetensors")
    with torch.device("meta"):
        empty = LlamaForCausalLM(config)
    empty.to_empty(device="cuda").load_state_dict(torch.load(f"{folder}/whole.pt", map_location="cuda:0"))
    with torch.device("cuda"):
        print(AutoModel.from_config(config).device)
    part = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0, "model.layers.2": "cpu", "model.layers.3": "cpu",
            "model.norm": 0, "model.rotary_emb": 0, "lm_head": 0}  # fmt: skip
    split = AutoModelForCausalLM.from_pretrained(folder, device_map=part)
    print(split(torch.ones(1, 4, dtype=torch.long, device="cuda")).logits.shape, split.hf_device_map)
    writer = pipeline("text-generation", model=folder, device=0, dtype=torch.float16)
    print(writer(sentence(3, 4), max_new_tokens=4, do_sample=False)[0].keys())
