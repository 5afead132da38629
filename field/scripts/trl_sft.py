"""TRL's SFTTrainer with LoRA and packing, on texts made here."""

import tempfile

from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer
from words import sentence, tokenizer

words = tokenizer()
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(words), hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4
    )
)
data = Dataset.from_dict({"text": [sentence(number) for number in range(64)]})
with tempfile.TemporaryDirectory() as folder:
    arguments = SFTConfig(
        folder,
        max_steps=4,
        per_device_train_batch_size=4,
        max_length=64,
        packing=False,
        bf16=True,
        logging_steps=1,
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        report_to=[],
        gradient_checkpointing=True,
    )
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        processing_class=words,
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(folder)
    print(trainer.evaluate())
