"""TRL's DPOTrainer with a reference model."""

import tempfile

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer
from words import sentence, tokenizer

words = tokenizer()
config = LlamaConfig(
    vocab_size=len(words),
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
data = Dataset.from_dict(
    {
        "prompt": [sentence(n, 8) for n in range(32)],
        "chosen": [" " + sentence(n + 1, 12) for n in range(32)],
        "rejected": [" " + sentence(n + 2, 12) for n in range(32)],
    }
)
with tempfile.TemporaryDirectory() as folder:
    arguments = DPOConfig(
        folder,
        max_steps=3,
        per_device_train_batch_size=4,
        max_length=48,
        bf16=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
    )
    trainer = DPOTrainer(
        LlamaForCausalLM(config), LlamaForCausalLM(config), arguments, train_dataset=data, processing_class=words
    )
    trainer.train()
