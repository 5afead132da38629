"""What a token of a long generation takes of one core's time.

    python -m benchmarks.speed.generation [LAYERS [TOKENS]]

A Llama of transformers with a cache that grows, 1,024 wide; a token's ops repeat, and only sizes grow.
"""

from __future__ import annotations

import sys
import time

import torch


def main() -> None:
    """Milliseconds a token, and microseconds an op."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from memgraph.capture.session import VirtualGpu

    layers, tokens = (int(sys.argv[at]) if len(sys.argv) > at else default for at, default in ((1, 28), (2, 40)))
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 4}
    with VirtualGpu("h100") as gpu:
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **shape)).to("cuda").eval()
        prompt = torch.randint(0, 32000, (1, 16), device="cuda")
        model.generate(prompt, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
        before, start = len(gpu.recorder.ops), time.process_time()
        model.generate(prompt, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
        seconds, ops = time.process_time() - start, len(gpu.recorder.ops) - before
    print(
        f"{layers} layers, {tokens} tokens: {1e3 * seconds / tokens:.1f} ms a token, {1e6 * seconds / ops:.1f} us an op"
    )


if __name__ == "__main__":
    main()
