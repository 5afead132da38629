"""The size of a nanoVLM: fields, derived values, checks, presets. Plain data, no torch.

Field names are those of `VLMConfig` in huggingface/nanoVLM, models/config.py, so that a setting read there can be given
here. Left out are the fields that name weights, tokenizers and files, which do not change what is allocated, and those
that its own model cannot run with (`vit_cls_flag`, `lm_use_tokens`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from memgraph.errors import UsageError

Attention = Literal["sdpa", "manual"]
"""`sdpa`: torch's fused attention. `manual`: scores, softmax and product as separate ops, with matrices of S by S."""

Placement = Literal["argmax", "mask"]
"""How image embeddings get among the token embeddings. `argmax`: one image a sample, from its first token on (the 222M
design, commit 91a3b93). `mask`: any number of images, wherever a boolean mask finds their tokens (the 460M design)."""


@dataclass(frozen=True)
class NanoVLMConfig:
    """A nanoVLM's dimensions. The defaults are nanoVLM-222M: SigLIP ViT-B/16, 224 px; SmolLM2-135M; 49 image tokens."""

    vit_hidden_dim: int = 768
    vit_inter_dim: int = 3072
    vit_patch_size: int = 16
    """Pixels."""
    vit_img_size: int = 224
    """Pixels a side."""
    vit_n_heads: int = 12
    vit_dropout: float = 0.0
    vit_n_blocks: int = 12
    vit_ln_eps: float = 1e-6

    lm_hidden_dim: int = 576
    lm_inter_dim: int = 1536
    lm_rms_eps: float = 1e-5
    lm_re_base: int = 100_000
    """Base of the rotary frequencies."""
    lm_max_position_embeddings: int = 8192
    """Positions from which on the rotary frequencies are stretched."""
    lm_base_vocab_size: int = 49_152
    extra_token_amount: int = 1
    """Tokens that the vision-language model adds to its language model's; the first of them stands for an image."""
    lm_n_heads: int = 9
    lm_n_kv_heads: int = 3
    lm_dropout: float = 0.0
    lm_n_blocks: int = 30
    lm_attn_scaling: float = 1.0
    lm_max_length: int = 512
    """Tokens a sample, images included: the sequence length."""
    lm_tie_weights: bool = True
    """Whether the head's weight is the token embedding's."""

    mp_pixel_shuffle_factor: int = 2
    """Patches a side that are folded into one image token."""

    loss_chunks: int = 1
    """Parts in which logits and loss are computed, each again in the backward; not in the original."""
    images_per_sample: int = 1
    """Images (tiles, where a picture is cut into tiles) in each sample."""
    image_placement: Placement = "argmax"
    attention: Attention = "sdpa"
    """Of both towers, unless one of the two below says otherwise."""
    vit_attention: Attention | None = None
    lm_attention: Attention | None = None

    @property
    def lm_vocab_size(self) -> int:
        """Tokens that the embedding and the head know."""
        return self.lm_base_vocab_size + self.extra_token_amount

    @property
    def image_token_id(self) -> int:
        """The token that marks an image's places: the first after the language model's own."""
        return self.lm_base_vocab_size

    @property
    def vit_patches_a_side(self) -> int:
        """Patches along one side of an image."""
        return self.vit_img_size // self.vit_patch_size

    @property
    def mp_image_token_length(self) -> int:
        """Tokens that one image takes in the sequence: the original's field, which has to agree with the others."""
        return (self.vit_patches_a_side // self.mp_pixel_shuffle_factor) ** 2

    @property
    def image_tokens(self) -> int:
        """Tokens that all images of one sample take."""
        return self.images_per_sample * self.mp_image_token_length

    def validate(self) -> None:
        """Check that a model of these dimensions can be built and run.

        Raises:
            UsageError: the first thing that is wrong, and what would be right.
        """
        for complaint in _complaints(self):
            raise UsageError(complaint)


_MOST, _MOST_BLOCKS = 2**31, 10_000
"""Larger dimensions are slips of the keyboard; blocks are built one by one."""


def _complaints(config: NanoVLMConfig) -> Iterator[str]:
    """What is wrong, a line each. Signs first: the rest divides by these numbers."""
    yield from _out_of_range(config)
    yield from _indivisible(config)
    if config.image_placement == "argmax" and config.images_per_sample != 1:
        yield f"images_per_sample={config.images_per_sample} needs image_placement=mask: argmax places one image"
    if config.image_tokens > config.lm_max_length:
        yield f"seq {config.lm_max_length} has no room for {config.image_tokens} image tokens: use at least as many"


def _out_of_range(config: NanoVLMConfig) -> Iterator[str]:
    may_be_zero = {"images_per_sample", "vit_n_blocks", "lm_n_blocks"}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        least = 0 if field.name in may_be_zero else 1
        if type(value) is int and value < least:
            yield f"{field.name}={value} is too small: use at least {least}"
        most = _MOST_BLOCKS if field.name.endswith("_n_blocks") else _MOST
        if type(value) is int and value > most:
            yield f"{field.name}={value} is too large: use at most {most:,}"
    for name in ("vit_dropout", "lm_dropout"):
        if not 0 <= getattr(config, name) < 1:
            yield f"{name}={getattr(config, name)} is not a probability: use at least 0 and less than 1"


def _indivisible(config: NanoVLMConfig) -> Iterator[str]:
    yield from _must_divide(config, "vit_n_heads", "vit_hidden_dim")
    yield from _must_divide(config, "lm_n_heads", "lm_hidden_dim")
    yield from _must_divide(config, "lm_n_kv_heads", "lm_n_heads")
    yield from _must_divide(config, "vit_patch_size", "vit_img_size")
    yield from _must_divide(config, "mp_pixel_shuffle_factor", "vit_patches_a_side")
    if config.lm_hidden_dim // config.lm_n_heads % 2:
        size = config.lm_hidden_dim // config.lm_n_heads
        yield f"heads of {size} cannot be rotated by halves: make lm_hidden_dim / lm_n_heads even"


def _must_divide(config: NanoVLMConfig, divisor: str, dividend: str) -> Iterator[str]:
    part, whole = getattr(config, divisor), getattr(config, dividend)
    if whole % part:
        below = max((d for d in range(1, part) if whole % d == 0), default=1)
        above = min((d for d in range(part, whole + 1) if whole % d == 0), default=whole)
        yield f"{divisor}={part} does not divide {dividend}={whole}: use {divisor}={below} or {divisor}={above}"


NANOVLM_222M = NanoVLMConfig()
"""222,082,176 parameters. 224 px and 49 image tokens as released (lusxvr/nanoVLM-222M); the rest is commit 91a3b93."""

NANOVLM_460M = NanoVLMConfig(
    vit_img_size=512,
    lm_hidden_dim=960,
    lm_inter_dim=2560,
    extra_token_amount=66,
    lm_n_heads=15,
    lm_n_kv_heads=5,
    lm_n_blocks=32,
    lm_max_length=4096,
    mp_pixel_shuffle_factor=4,
    # Its loader resizes a picture to 2048 px and cuts it into tiles of 512: a square one gives 16, and the whole.
    images_per_sample=17,
    image_placement="mask",
)
"""460,113,984 parameters: `VLMConfig` of commit 4e0c096, whose training length is its `lm_max_length`, 4096."""

PRESETS = {"nanovlm-222m": NANOVLM_222M, "nanovlm-460m": NANOVLM_460M}
