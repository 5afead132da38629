"""transformers' generate in its forms: greedy, sampled, beams, contrastive penalties, caches, an assistant."""

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, StoppingCriteriaList, TextStreamer
from transformers.generation import MaxLengthCriteria
from words import tokenizer


def llama(layers):
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()


model, small = llama(4), llama(1)
prompt = torch.randint(3, 1000, (2, 16), device="cuda")
mask = torch.ones_like(prompt)
mask[0, :4] = 0
FORMS = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.7},
    "min_p": {"do_sample": True, "min_p": 0.05, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    "beams": {"num_beams": 3, "length_penalty": 0.8},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "static cache": {"cache_implementation": "static"},
    "offloaded cache": {"cache_implementation": "offloaded"},
    "no cache": {"use_cache": False},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "scores": {"return_dict_in_generate": True, "output_scores": True, "output_attentions": False},
    "stopping": {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(24)])},
    "config": {"generation_config": GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)},
    "min": {"min_new_tokens": 4},
}
for name, form in FORMS.items():
    made = model.generate(prompt, attention_mask=mask, **{"max_new_tokens": 8, "do_sample": False, **form})
    made = made if isinstance(made, torch.Tensor) else made.sequences
    print(name, tuple(made.shape))
print("assisted", tuple(model.generate(prompt[:1], assistant_model=small, max_new_tokens=8, do_sample=False).shape))
print("lookup", tuple(model.generate(prompt[:1], prompt_lookup_num_tokens=3, max_new_tokens=8, do_sample=False).shape))
streamer = TextStreamer(tokenizer())
print("streamed", tuple(model.generate(prompt[:1] % 27, streamer=streamer, max_new_tokens=8, do_sample=False).shape))
