"""The training loops whose memory others published (`published.json`), as ordinary code: torchvision's networks on
CIFAR-10's images at 86 x 86, language models on 128 tokens of text, four steps in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

IMAGE, TOKENS, CLASSES, STEPS = 86, 128, 10, 4
VISION = {
    "ConvNeXtBase": "convnext_base", "ConvNeXtTiny": "convnext_tiny", "MobileNetV2": "mobilenet_v2",
    "RegNetX400MF": "regnet_x_400mf", "RegNetY400MF": "regnet_y_400mf", "ResNet101": "resnet101",
    "ResNet152": "resnet152", "VGG16": "vgg16", "VGG19": "vgg19",
}  # fmt: skip
OF_CLASSES = {"MnasNet": "mnasnet1_0", "MobeNetV3Large": "mobilenet_v3_large", "MobeNetV3Small": "mobilenet_v3_small"}
"""Those that were made with ten classes."""
LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "EleutherAI/gpt-neo-125M": ("GPTNeo", {
        "hidden_size": 768, "num_layers": 12, "num_heads": 12, "attention_types": [[["global", "local"], 6]],
        "embed_dropout": 0.0, "attention_dropout": 0.0, "resid_dropout": 0.0}),
    "T5-small": ("T5", {"tie_word_embeddings": True, "decoder_start_token_id": 0}),
    "t5-base": ("T5", {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": 0}),
    "cerebras/Cerebras-GPT-111M": ("GPT2", {
        "n_embd": 768, "n_layer": 10, "n_head": 12, "n_inner": 3072, "n_positions": 2048, "activation_function": "gelu",
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}),
    "distilbert/distilgpt2": ("GPT2", {"n_layer": 6}),
    "openai-community/gpt2": ("GPT2", {}),
    "facebook/opt-125m": ("OPT", {}),
    "facebook/opt-350m": ("OPT", {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096,
        "word_embed_proj_dim": 512, "do_layer_norm_before": False}),
    "Qwen/Qwen3-4B": ("Qwen3", {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}),
    "DeepSeek-R1-Distill-Qwen-1.5B": ("Qwen2", {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": False}),
    "meta-llama/Llama-3.2-3B-Instruct": ("Llama", {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True}),
}  # fmt: skip
"""The class of transformers and what differs from its configuration's defaults."""


def run(model: str, optimizer: str, batch: int, zero_grad: int) -> None:
    """Four steps on `cuda`. Gradients go before the data (0), before the backward (1) or after the step (2)."""
    if model in LANGUAGE:
        _loop(language_model(model), optimizer, zero_grad, lambda: _text(model, batch), _own_loss)
    else:
        _loop(network(model), optimizer, zero_grad, lambda: _images(batch), _class_loss)


def network(name: str) -> nn.Module:
    """One of torchvision's."""
    from torchvision import models

    if name in OF_CLASSES:
        return models.get_model(OF_CLASSES[name], weights=None, num_classes=CLASSES)
    return models.get_model(VISION[name], weights=None)


def language_model(name: str) -> nn.Module:
    """One of transformers', from its configuration."""
    import transformers

    kind, settings = LANGUAGE[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    head = "ForConditionalGeneration" if kind == "T5" else "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    return getattr(transformers, f"{kind}{head}")(config)


def _loop(
    model: nn.Module, name: str, zero_grad: int, data: Callable[[], dict[str, Tensor]],
    loss_of: Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, Any]],
) -> None:  # fmt: skip
    model.cuda().train()
    optimizer = _optimizer(model, name)
    kept = None
    for _ in range(STEPS):
        if zero_grad == 0:
            optimizer.zero_grad()
        batch = {key: value.cuda() for key, value in data().items()}
        loss, kept = loss_of(model, batch)
        if zero_grad == 1:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if isinstance(kept, Tensor):
            torch.max(kept, 1)
        if zero_grad == 2:
            optimizer.zero_grad()


def _optimizer(model: nn.Module, name: str) -> torch.optim.Optimizer:
    if name == "Adafactor":
        from transformers import Adafactor

        return Adafactor(model.parameters(), lr=0.001, relative_step=False)
    return getattr(torch.optim, name)(model.parameters(), lr=0.001)


def _class_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
    outputs = model(batch["images"])
    return nn.functional.cross_entropy(outputs, batch["labels"]), outputs


def _own_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
    outputs = model(**batch)
    return outputs.loss, outputs


def _images(batch: int) -> dict[str, Tensor]:
    return {"images": torch.zeros(batch, 3, IMAGE, IMAGE), "labels": torch.zeros(batch, dtype=torch.long)}


def _text(model: str, batch: int) -> dict[str, Tensor]:
    """Padded to the longest, as a collator does; a batch of one has no padding."""
    tokens = torch.ones(batch, TOKENS, dtype=torch.long)
    mask = torch.ones(batch, TOKENS, dtype=torch.long)
    mask[1:, TOKENS // 2 :] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}
