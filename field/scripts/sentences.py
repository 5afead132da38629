"""sentence-transformers: a small BERT trained on pairs with its trainer, then texts encoded."""

import tempfile

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    util,
)
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel
from words import sentence, tokenizer

with tempfile.TemporaryDirectory() as folder:
    words = tokenizer()
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256
        )
    ).save_pretrained(folder)
    words.save_pretrained(folder)
    body = Transformer(folder, max_seq_length=32)
    model = SentenceTransformer(modules=[body, Pooling(128)], device="cuda")
    pairs = Dataset.from_dict(
        {"anchor": [sentence(n) for n in range(64)], "positive": [sentence(n + 1) for n in range(64)]}
    )
    judge = EmbeddingSimilarityEvaluator([sentence(1)] * 8, [sentence(n) for n in range(8)], [n / 8 for n in range(8)])
    arguments = SentenceTransformerTrainingArguments(
        folder,
        max_steps=3,
        per_device_train_batch_size=16,
        bf16=True,
        report_to=[],
        save_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
    )
    SentenceTransformerTrainer(
        model, arguments, pairs, pairs.select(range(16)), MultipleNegativesRankingLoss(model), evaluator=judge
    ).train()
    found = model.encode([sentence(n) for n in range(10)], convert_to_tensor=True, batch_size=4)
    print(found.shape, util.cos_sim(found, found).shape, util.semantic_search(found[:2], found, top_k=3)[0][0].keys())
    model.save_pretrained(folder + "/out")
