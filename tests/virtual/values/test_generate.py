"""transformers' `generate` makes exactly the tokens that it is asked for, whatever chooses them and keeps the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memgraph
from memgraph.trace import Category

transformers = pytest.importorskip("transformers")

PROMPT, TOKENS = 16, 7
SIZES = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip


def llama(**more: int) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **more})).cuda().eval()


def mistral() -> Any:
    """With a window that the prompt fills."""
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=8)).cuda().eval()


def mixtral() -> Any:
    config = transformers.MixtralConfig(**SIZES, num_local_experts=8, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    return transformers.MixtralForCausalLM(config).cuda().eval()


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (llama, {}),
        (llama, {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.7}),
        (llama, {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 3}),
        (llama, {"num_beams": 4}),
        (llama, {"num_beams": 3, "do_sample": True}),
        (llama, {"num_beams": 4, "early_stopping": True}),
        (llama, {"use_cache": False}),
        (llama, {"eos_token_id": [2, 7]}),
        (llama, {"cache_implementation": "static", "disable_compile": True}),
        (llama, {"cache_implementation": "offloaded"}),
        (mistral, {}),
        (mistral, {"cache_implementation": "static", "disable_compile": True}),
        (mistral, {"num_beams": 2}),
        (mixtral, {}),
    ],
)
def test_as_many_as_asked_for(make: Any, how: dict[str, Any]) -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        ids = torch.randint(5, 900, (2, PROMPT), device="cuda")
        made = make().generate(
            ids, max_new_tokens=TOKENS, pad_token_id=0, **{"do_sample": False, "eos_token_id": 2, **how}
        )
    assert made.shape == (2, PROMPT + TOKENS)
    cached = [buffer for buffer in gpu.trace.buffers if buffer.category is Category.CACHE]
    assert bool(cached) is how.get("use_cache", True)


def test_with_an_assistant() -> None:
    with memgraph.virtual_gpu("h200"):
        ids = torch.randint(5, 900, (1, PROMPT), device="cuda")
        assistant = llama(num_hidden_layers=1)
        made = llama().generate(
            ids, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, eos_token_id=2, assistant_model=assistant
        )
    assert made.shape == (1, PROMPT + TOKENS)
