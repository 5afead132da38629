"""PEFT: AdaLoRA with its budget, LoHa, LoKr, VeRA, OFT, X-LoRA-like two adapters added up, p-tuning, gradient
checkpointing with inputs that require gradients."""

import torch
from peft import (
    AdaLoraConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PromptEncoderConfig,
    TaskType,
    VeraConfig,
    get_peft_model,
)
from transformers import OPTConfig, OPTForCausalLM

torch.manual_seed(0)
config = OPTConfig(
    vocab_size=5000,
    hidden_size=256,
    ffn_dim=1024,
    num_hidden_layers=4,
    num_attention_heads=4,
    word_embed_proj_dim=256,
    max_position_embeddings=256,
    dropout=0.0,
)
both = ["q_proj", "v_proj"]
methods = {
    "adalora": AdaLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        init_r=12,
        target_r=4,
        total_step=10,
        tinit=1,
        tfinal=2,
        deltaT=1,
        target_modules=both,
    ),
    "loha": LoHaConfig(task_type=TaskType.CAUSAL_LM, r=8, target_modules=both),
    "lokr": LoKrConfig(task_type=TaskType.CAUSAL_LM, r=8, target_modules=both),
    "vera": VeraConfig(task_type=TaskType.CAUSAL_LM, r=64, target_modules=both),
    "oft": OFTConfig(task_type=TaskType.CAUSAL_LM, r=0, oft_block_size=32, target_modules=both),
    "ptuning": PromptEncoderConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=10, encoder_hidden_size=128),
}
ids = torch.randint(0, 5000, (4, 128), device="cuda")
for name, method in methods.items():
    model = get_peft_model(OPTForCausalLM(config), method).cuda().train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for step in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if name == "adalora":
            model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
    print(name, float(loss))
    del model, optimizer, loss
model = OPTForCausalLM(config)
model.gradient_checkpointing_enable()
model.enable_input_require_grads()
model = (
    get_peft_model(model, LoraConfig(r=8, target_modules=both + ["fc1"], task_type="CAUSAL_LM"), adapter_name="a")
    .cuda()
    .train()
)
model.add_adapter("b", LoraConfig(r=4, target_modules=both, task_type="CAUSAL_LM"))
for name in ("a", "b"):
    model.set_adapter(name)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
model.add_weighted_adapter(["a", "b"], [0.7, 0.3], "both", combination_type="cat")
model.set_adapter("both")
model.eval()
print(model.generate(input_ids=ids[:, :16], max_new_tokens=8, do_sample=False, min_new_tokens=8).shape)
model.merge_and_unload()
