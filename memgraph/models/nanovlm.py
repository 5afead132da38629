"""nanoVLM, a small vision-language model, made to allocate what the original allocates.

The original is huggingface/nanoVLM (Apache 2.0): models/vision_language_model.py at commit 91a3b93 for the 222M design,
at 4e0c096 for the 460M design. This is our own text of it, without tokenizers, weights or generation. What is kept
exact: the ATen calls of a training step, their order, shapes and dtypes, how long each result lives, the parameters
and buffers with their names, and the order of random draws, so that one seed gives both the same weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgraph.errors import MemgraphError, UsageError
from memgraph.models.chunked_loss import chunked_cross_entropy
from memgraph.models.job import Batch, Job
from memgraph.models.nanovlm_config import NanoVLMConfig
from memgraph.models.nanovlm_language import LanguageTower
from memgraph.models.nanovlm_vision import VisionTower, init_weights

Images = Tensor | Sequence[Sequence[Tensor]]
"""[N, 3, P, P], or a sequence a sample of such tensors, which may still be on the host."""


class Projector(nn.Module):
    """Folds squares of patches into image tokens: [N, patches, vision] → [N, tokens, language]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.factor = config.mp_pixel_shuffle_factor
        self.proj = nn.Linear(config.vit_hidden_dim * self.factor**2, config.lm_hidden_dim, bias=False)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self._fold(x)
        x = self.proj(x)
        return x

    def _fold(self, x: Tensor) -> Tensor:
        n, patches, width = x.size()
        side = round(patches**0.5)
        x = x.view(n, side, side, width)
        x = x.reshape(n, side // self.factor, self.factor, side // self.factor, self.factor, width)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous()
        return x.reshape(n, (side // self.factor) ** 2, width * self.factor**2)


class NanoVLM(nn.Module):
    """The 222M design: each sample has one image, in consecutive places from its first image token on."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.image_token_id = config.image_token_id
        self.image_tokens = config.mp_image_token_length
        self.vision_encoder = VisionTower(config)
        self.loss_chunks = config.loss_chunks
        self.decoder = LanguageTower(config)
        self.MP = Projector(config)

    def forward(
        self, input_ids: Tensor, images: Any, attention_mask: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits and loss of a batch.

        Args:
            input_ids: [B, S], int64.
            images: [B, 3, P, P], float32.
            attention_mask: [B, S], 1 to attend and 0 for padding.
            targets: [B, S], int64, -100 where nothing is to be learnt.

        Returns:
            [B, S, vocabulary] and the mean cross entropy; without targets the hidden states [B, S, C] and None.
        """
        image_embd = self.vision_encoder(images)
        image_embd = self.MP(image_embd)
        token_embd = self.decoder.token_embedding(input_ids)
        embd = self._place(input_ids, token_embd, image_embd)
        logits, _caches = self.decoder(embd, attention_mask)
        if targets is None:
            return logits, None
        if self.loss_chunks > 1:
            return logits, self._chunked_loss(logits, targets)
        logits = self.decoder.head(logits)
        return logits, cross_entropy(logits, targets)

    def _chunked_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The loss without ever all logits; the hidden states are returned in their place."""
        rows, wanted = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
        return chunked_cross_entropy(self.decoder.head, rows, wanted, self.loss_chunks)

    def _place(self, input_ids: Tensor, token_embd: Tensor, image_embd: Tensor) -> Tensor:
        """The token embeddings with each sample's image embeddings put from its first image token on."""
        embd = token_embd.clone()
        first = torch.argmax((input_ids == self.image_token_id).int(), dim=1)
        rows = torch.arange(input_ids.size(0), device=input_ids.device).unsqueeze(1).expand(-1, self.image_tokens)
        offsets = torch.arange(self.image_tokens, device=input_ids.device).unsqueeze(0)
        columns = first.unsqueeze(1) + offsets
        embd[rows, columns] = image_embd.to(embd.dtype)
        return embd


class ManyImageNanoVLM(NanoVLM):
    """The 460M design: any number of images a sample, in the places that a mask over all image tokens finds."""

    def forward(
        self, input_ids: Tensor, images: Images, attention_mask: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `NanoVLM.forward`, but `images` is a sequence a sample of [n, 3, P, P], moved to the device here."""
        pixels = _gather(images, input_ids.device)
        token_embd = self.decoder.token_embedding(input_ids)
        if pixels is not None:
            image_embd = self.vision_encoder(pixels)
            image_embd = self.MP(image_embd)
            token_embd = self._place(input_ids, token_embd, image_embd)
        logits, _caches = self.decoder(token_embd, attention_mask)
        if targets is None:
            return logits, None
        if self.loss_chunks > 1:
            return logits, self._chunked_loss(logits, targets)
        logits = self.decoder.head(logits)
        return logits, cross_entropy(logits, targets)

    def _place(self, input_ids: Tensor, token_embd: Tensor, image_embd: Tensor) -> Tensor:
        """The token embeddings with the image embeddings put where image tokens are, in order."""
        embd = token_embd.clone()
        where = input_ids == self.image_token_id
        embd[where] = image_embd.view(-1, image_embd.size(-1)).to(embd.dtype)
        return embd


def _gather(images: Images, device: torch.device) -> Tensor | None:
    """All samples' images as one tensor on the device; None if there are none."""
    if isinstance(images, Tensor):
        return images
    flat = [image for sample in images for image in sample]
    return torch.cat(flat, dim=0).to(device) if flat else None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all positions whose target is not -100."""
    return F.cross_entropy(logits.reshape(-1, logits.size(-1)), targets.reshape(-1), ignore_index=-100)


def build(config: NanoVLMConfig) -> NanoVLM:
    """The model of this configuration, on the current default device, with the original's random weights.

    Raises:
        UsageError: the dimensions do not fit together.
    """
    config.validate()
    return ManyImageNanoVLM(config) if config.image_placement == "mask" else NanoVLM(config)


def make_inputs(config: NanoVLMConfig, batch: int) -> Batch:
    """Random inputs of `batch` samples as a loader hands them over: `images`, `input_ids`, `labels`, `attention_mask`.

    Image tokens stand first in each sample; nothing is padded, and every position has a label, so the figures are those
    of the longest batch that a loader can make.
    """
    shape = (batch, config.lm_max_length)
    images = _make_images(config, batch)
    input_ids = torch.randint(0, config.lm_base_vocab_size, shape)
    input_ids[:, : config.image_tokens] = config.image_token_id
    labels = torch.randint(0, config.lm_base_vocab_size, shape)
    return {
        "images": images,
        "input_ids": input_ids,
        "labels": labels,
        "attention_mask": torch.ones(shape, dtype=torch.int64),
    }


def _make_images(config: NanoVLMConfig, batch: int) -> Images:
    """One tensor of all images for the 222M design, a list a sample for the other: as their loaders make them."""
    side = config.vit_img_size
    if config.image_placement == "argmax":
        return torch.rand(batch, 3, side, side)
    return [[torch.rand(1, 3, side, side) for _ in range(config.images_per_sample)] for _ in range(batch)]


def run_forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and loss of a batch made by `make_inputs`.

    Raises:
        MemgraphError: this torch does not run nanoVLM's attention.
    """
    ids, images, mask, labels = (batch[name] for name in ("input_ids", "images", "attention_mask", "labels"))
    try:
        outputs: tuple[Tensor, Tensor] = model(ids, images, attention_mask=mask, targets=labels)
    except RuntimeError as error:
        if "attn_mask should not be set when is_causal" not in str(error):
            raise
        # Which nanoVLM does. torch checks it in validate_sdpa_input since 2.15 (PyTorch 187801).
        advice = "take an older one, or --set lm_attention=manual"
        raise MemgraphError(
            f"torch {torch.__version__} refuses nanoVLM's causal attention with a mask: {advice}"
        ) from error
    return outputs


def make_job(name: str, config: NanoVLMConfig, batch: int) -> Job:
    """Training `config` with `batch` samples a step.

    Raises:
        UsageError: the dimensions do not fit together, or the batch is empty.
    """
    config.validate()
    if batch < 1:
        raise UsageError(f"a batch of {batch} has nothing to train on: use at least 1")
    settings: Mapping[str, Any] = {
        "model": name,
        "batch": batch,
        "seq": config.lm_max_length,
        **dataclasses.asdict(config),
    }
    return Job(lambda: build(config), lambda: make_inputs(config, batch), run_forward, settings)
