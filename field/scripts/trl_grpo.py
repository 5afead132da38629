"""TRL's GRPOTrainer: completions are generated, judged by a function, and trained on."""

import tempfile

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer
from words import sentence, tokenizer

words = tokenizer()
config = LlamaConfig(
    vocab_size=len(words),
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
data = Dataset.from_dict({"prompt": [sentence(n, 8) for n in range(32)]})


def length(completions, **_):
    return [-abs(20.0 - len(text)) for text in completions]


with tempfile.TemporaryDirectory() as folder:
    arguments = GRPOConfig(
        folder,
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=12,
        bf16=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
    )
    GRPOTrainer(LlamaForCausalLM(config), length, arguments, train_dataset=data, processing_class=words).train()
