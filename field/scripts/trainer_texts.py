"""Trainer: text classification with padding by batch, grouped lengths, label smoothing, NEFTune, Adafactor,
early stopping, the best model loaded at the end."""

import tempfile

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from words import sentence, tokenizer

set_seed(0)
words = tokenizer()
rng = np.random.default_rng(0)


class Texts(torch.utils.data.Dataset):
    def __init__(self, n):
        self.rows = [
            words(sentence(i, int(rng.integers(20, 200)))) | {"label": int(rng.integers(0, 4))} for i in range(n)
        ]
        for row in self.rows:
            row.pop("token_type_ids", None)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(self.rows[i])


model = BertForSequenceClassification(
    BertConfig(
        vocab_size=len(words),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
        num_labels=4,
    )
)
args = TrainingArguments(
    tempfile.mkdtemp(),
    per_device_train_batch_size=16,
    per_device_eval_batch_size=32,
    num_train_epochs=2,
    learning_rate=1e-4,
    train_sampling_strategy="group_by_length",
    label_smoothing_factor=0.1,
    neftune_noise_alpha=5,
    optim="adafactor",
    bf16=True,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    logging_steps=2,
    report_to=[],
    max_grad_norm=0.5,
    lr_scheduler_type="linear",
    warmup_steps=2,
)
trainer = Trainer(
    model,
    args,
    train_dataset=Texts(96),
    eval_dataset=Texts(40),
    data_collator=DataCollatorWithPadding(words),
    processing_class=words,
    compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    callbacks=[EarlyStoppingCallback(3)],
)
trainer.train()
print(trainer.evaluate())
print(trainer.predict(Texts(20)).predictions.shape)
