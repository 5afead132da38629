"""transformers' Trainer: evaluation, checkpoints, early stopping, and a second run that resumes."""

import tempfile

import torch
from figures import size, states, told
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class Tokens(Dataset):
    def __init__(self, count):
        self.rows = torch.randint(0, 2000, (count, 128))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return {"input_ids": self.rows[number], "labels": self.rows[number]}


def trainer(folder, epochs):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=2000, n_embd=256, n_layer=4, n_head=4))
    arguments = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        bf16=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=4,
        save_steps=4,
        logging_steps=2,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        gradient_accumulation_steps=2,
        report_to=[],
        warmup_steps=2,
        lr_scheduler_type="cosine",
        disable_tqdm=True,
    )
    return Trainer(
        model,
        arguments,
        train_dataset=Tokens(64),
        eval_dataset=Tokens(16),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=3)],
    )


with tempfile.TemporaryDirectory() as folder:
    trainer(folder, 1).train()
    second = trainer(folder, 2)
    second.train(resume_from_checkpoint=True)
    print(second.evaluate())
    second.save_model(folder)
    told(parameters=size(second.model.parameters()), optimizer_state=states(second.optimizer))
