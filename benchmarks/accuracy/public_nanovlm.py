"""The public nanoVLM's own training classes on a virtual GPU, unchanged, from a checkout that you name.

    git clone https://github.com/huggingface/nanoVLM && python -m benchmarks.accuracy.public_nanovlm nanoVLM
    python -m benchmarks.accuracy.public_nanovlm nanoVLM --batch 2 --seq 2048 --images 4 --gpu h200

The model, its configuration and its initialisation are the checkout's. What it would fetch is not: the weights are left
out (`load_backbone=False`, its own option), and of the tokenizer there is what the model asks of it, the image token's
number. The loop is its train.py's: three groups of parameters, bf16 autocast, accumulation over two micro-batches,
clipping, AdamW. Beside it stands memgraph's preset with the same sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import torch

import memgraph
from memgraph.models.nanovlm import build
from memgraph.models.nanovlm_config import NANOVLM_222M, NanoVLMConfig

MICRO_BATCHES = 2
STEPS = 2


def import_classes(checkout: Path) -> tuple[Any, Any]:
    """Its `VisionLanguageModel` and `VLMConfig`; its tokenizer would come from the network."""
    sys.path.insert(0, str(checkout))
    tokenizer = types.ModuleType("data.processors")
    tokenizer.get_tokenizer = lambda *_, **__: types.SimpleNamespace(image_token_id=NANOVLM_222M.image_token_id)  # type: ignore[attr-defined]
    sys.modules["data.processors"] = tokenizer
    from models.config import VLMConfig
    from models.vision_language_model import VisionLanguageModel

    return VisionLanguageModel, VLMConfig


def make_batch(
    config: Any, forward: Any, batch: int, images: int, *, one: bool
) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Token ids, images and mask as its collator makes them, on the CPU."""
    side, count = config.vit_img_size, images * config.mp_image_token_length
    ids = torch.randint(0, config.lm_base_vocab_size, (batch, config.lm_max_length))
    ids[:, :count] = NANOVLM_222M.image_token_id
    mask = torch.ones_like(ids)
    if one:
        return ids, torch.rand(batch, 3, side, side), mask
    stacked = "torch.stack" in inspect.getsource(forward)
    shape = (3, side, side) if stacked else (1, 3, side, side)
    return ids, [[torch.rand(shape) for _ in range(images)] for _ in range(batch)], mask


def train(model_class: Any, config: Any, batch: int, images: int, *, one: bool) -> None:
    """Two optimizer steps of its training loop."""
    model = model_class(config, load_backbone=False)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in
              ((model.MP, 5e-3), (model.vision_encoder, 5e-5), (model.decoder, 5e-5))]  # fmt: skip
    optimizer = torch.optim.AdamW(groups)
    everything = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    model.to("cuda").train()
    optimizer.zero_grad()
    for _ in range(STEPS):
        for _ in range(MICRO_BATCHES):
            ids, pictures, mask = make_batch(config, model.forward, batch, images, one=one)
            if isinstance(pictures, torch.Tensor):
                pictures = pictures.to("cuda")
            ids, labels, mask = ids.to("cuda"), ids.to("cuda"), mask.to("cuda")
            with torch.autocast("cuda", torch.bfloat16):
                _, loss = model(ids, pictures, attention_mask=mask, targets=labels)
            loss = loss / MICRO_BATCHES
            loss.backward()
        torch.nn.utils.clip_grad_norm_(everything, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()


def preset(config: Any, images: int, *, one: bool) -> Any:
    """Something that makes memgraph's own nanoVLM of the same sizes."""
    names = {field.name for field in dataclasses.fields(NanoVLMConfig)}
    same = {name: value for name, value in vars(config).items() if name in names}
    placed = {"image_placement": "argmax"} if one else {"image_placement": "mask", "images_per_sample": images}
    own = NanoVLMConfig(**{**same, **placed})
    return lambda *_, **__: build(own)


def predict(model_class: Any, config: Any, asked: argparse.Namespace, *, one: bool) -> memgraph.Trace:
    """Its training on a virtual GPU."""
    with memgraph.virtual_gpu(asked.gpu) as gpu:
        train(model_class, config, asked.batch, asked.images, one=one)
    gpu.trace.self_check()
    return gpu.trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--gpu", default="h200")
    asked = parser.parse_args()
    model_class, config_class = import_classes(asked.checkout)
    config = config_class(lm_max_length=asked.seq)
    one = "image" in inspect.signature(model_class.forward).parameters  # a sample, until mid-2025
    trace = predict(model_class, config, asked, one=one)
    peak = trace.peak
    calls = sum(trace.phases[op.phase].step == STEPS for op in trace.ops)
    print(f"{len(trace.buffers):,} allocations, {calls:,} calls in step {STEPS}, on {trace.gpu}, torch {trace.torch}")
    print(f"peak: requested {peak.requested:,}, allocated {peak.allocated:,}, reserved {peak.reserved:,} bytes")
    print(f"in the {peak.phase}, at {peak.op}")
    for line in (*trace.assumptions, *(f"unknown: {op}" for op in trace.unknown_ops)):
        print("assumed or unknown:", line)
    other = predict(preset(config, asked.images, one=one), config, asked, one=one).peak.requested
    print(f"memgraph's preset of these sizes: requested {other:,} bytes, {other - peak.requested:+,}")


if __name__ == "__main__":
    main()
