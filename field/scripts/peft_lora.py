"""PEFT: LoRA on a Llama, trained, saved, loaded again and merged."""

import tempfile

import torch
from figures import size, states, told
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

config = LlamaConfig(
    vocab_size=4000,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
)
base = LlamaForCausalLM(config).to(torch.bfloat16)
lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear")
model = get_peft_model(base, lora).cuda()
model.print_trainable_parameters()
model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
model.enable_input_require_grads()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
scheduler = get_cosine_schedule_with_warmup(optimizer, 1, 4)
for step in range(4):
    tokens = torch.randint(0, 4000, (4, 256), device="cuda")
    loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    print(step, loss.item(), scheduler.get_last_lr())
told(parameters=size(model.parameters()), optimizer_state=states(optimizer))
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    del model, optimizer
    fresh = PeftModel.from_pretrained(LlamaForCausalLM(config).to(torch.bfloat16).cuda(), folder)
    merged = fresh.merge_and_unload().eval()
    with torch.no_grad():
        print(merged(torch.ones(1, 8, dtype=torch.long, device="cuda")).logits.shape)
