"""One batch for a model of transformers, from its configuration: what its forward takes, in shapes that agree.

Tokens are real numbers, so that what a model asks of them (is there padding, where are the images) has its answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from memgraph.errors import UsageError
from memgraph.models.tasks import Task

DEFAULT_SIDE = 448
"""Pixels a side where the configuration of a model of any resolution does not say."""
TRANSCRIPT = 64
"""Tokens of the text that belongs to a sound."""
SECONDS = 10
"""Of sound, at 16,000 samples a second, where the model takes any length."""


class Sizes(NamedTuple):
    """How large a batch is: samples, tokens a sample (None for none), pixels a side (None for the model's own)."""

    batch: int
    length: int | None
    side: int | None


def make_batch(kind: type[Any], config: Any, task: Task, sizes: Sizes) -> dict[str, Any]:
    """A batch that `kind`'s forward takes, with its labels.

    Raises:
        UsageError: the samples are shorter than their images need, or no inputs are known for this model.
    """
    takes = frozenset(inspect.signature(kind.forward).parameters)
    batch: dict[str, Any] = {}
    for part in task.reads:
        batch.update(_MAKERS[part](config, takes, sizes))
    if "text" in task.reads and "image" in task.reads and task.labels == "tokens":
        batch.update(_with_images(kind, config, takes, batch))
    batch.update(_labels(config, task, sizes, batch))
    return batch


def _text(config: Any, takes: frozenset[str], sizes: Sizes) -> dict[str, Tensor]:
    assert sizes.length is not None
    count = sizes.batch * sizes.length
    tokens = torch.arange(count).remainder(_vocabulary(config)).view(sizes.batch, sizes.length)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _image(config: Any, takes: frozenset[str], sizes: Sizes) -> dict[str, Tensor]:
    vision = _vision(config)
    height, width = _pair(sizes.side or getattr(vision, "image_size", None) or DEFAULT_SIDE)
    channels = int(getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3)
    if "image_grid_thw" in takes:
        return _patches(vision, sizes.batch, channels, height, width)
    if "pixel_attention_mask" in takes:  # any number of images a sample
        mask = torch.ones(sizes.batch, 1, height, width, dtype=torch.long)
        return {"pixel_values": torch.rand(sizes.batch, 1, channels, height, width), "pixel_attention_mask": mask}
    if "image_sizes" in takes and hasattr(config, "image_grid_pinpoints"):
        raise UsageError(f"how {config.model_type} tiles its images is not known: write package.module:factory")
    needs_sizes = "image_sizes" in takes and getattr(vision, "model_type", "") == "pixtral"  # of any resolution
    more = {"image_sizes": torch.tensor([[height, width]] * sizes.batch)} if needs_sizes else {}
    return {"pixel_values": torch.rand(sizes.batch, channels, height, width), **more}


def _patches(vision: Any, batch: int, channels: int, height: int, width: int) -> dict[str, Tensor]:
    """All patches of all images in one row, and each image's grid, as models of any resolution take them."""
    size, merged = vision.patch_size, getattr(vision, "spatial_merge_size", 1)
    rows, columns = (side // (size * merged) * merged for side in (height, width))
    elements = channels * getattr(vision, "temporal_patch_size", 1) * size * size
    return {
        "pixel_values": torch.rand(batch * rows * columns, elements),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * batch),
    }


def _sound(config: Any, takes: frozenset[str], sizes: Sizes) -> dict[str, Tensor]:
    if "input_values" in takes:
        return {"input_values": torch.rand(sizes.batch, sizes.length or SECONDS * 16000)}
    bins: Any = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", 80)
    frames = sizes.length or 2 * getattr(config, "max_source_positions", 1500)  # Whisper's front halves them
    if hasattr(config, "input_channels"):  # Speech2Text takes frames first
        return {"input_features": torch.rand(sizes.batch, frames, bins)}
    return {"input_features": torch.rand(sizes.batch, bins, frames)}


_MAKERS = {"text": _text, "image": _image, "sound": _sound}


def _with_images(kind: type[Any], config: Any, takes: frozenset[str], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tokens with as many of them standing for the image as the model makes features of it."""
    tokens = batch["input_ids"].clone()
    marker = _image_token(config)
    count = image_tokens(kind, config, batch)
    if count > tokens.shape[1]:
        raise UsageError(f"seq {tokens.shape[1]} has no room for {count} image tokens: use at least as many")
    tokens[tokens == marker] = (marker + 1) % _vocabulary(config)
    tokens[:, :count] = marker
    of_images = (tokens == marker).long()
    also: dict[str, Tensor] = {name: of_images for name in ("token_type_ids", "mm_token_type_ids") if name in takes}
    return {"input_ids": tokens, **also}


def image_tokens(kind: type[Any], config: Any, batch: Mapping[str, Tensor]) -> int:
    """How many tokens of a sample its image takes.

    Raises:
        UsageError: the model makes its features in a way that is not known.
    """
    samples = len(batch["input_ids"])
    if "image_grid_thw" in batch:  # patches are merged by squares
        return len(batch["pixel_values"]) // getattr(config.vision_config, "spatial_merge_size", 1) ** 2 // samples
    if "pixel_attention_mask" in batch and hasattr(config, "scale_factor"):  # patches are shuffled into depth
        height, width = batch["pixel_values"].shape[-2:]
        size = config.vision_config.patch_size
        return (height // size) * (width // size) // config.scale_factor**2
    if "image_sizes" in batch:
        size = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
        return int((batch["image_sizes"][0] // size).prod())
    return _features(kind, config, batch) // config.get_text_config().hidden_size // samples


def _features(kind: type[Any], config: Any, batch: Mapping[str, Tensor]) -> int:
    """Elements of what the model makes of the images, asked of a copy of it without storage."""
    shape, dtype = tuple(batch["pixel_values"].shape), batch["pixel_values"].dtype
    try:
        with unset_fake_temporarily(), torch.no_grad(), torch.device("meta"):
            features = kind(config).get_image_features(pixel_values=torch.empty(shape, dtype=dtype))
    except Exception as error:  # the library's own code, which may refuse in many ways
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"how many tokens an image takes in {kind.__name__} is not known ({reason}): write package.module:factory"
        ) from error
    return sum(part.numel() for part in _tensors(getattr(features, "pooler_output", features)))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _labels(config: Any, task: Task, sizes: Sizes, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    if task.labels == "tokens":
        return {"labels": batch["input_ids"].remainder(_classes(config, task))}
    if task.labels == "pairs":
        return {"return_loss": True}
    if task.labels == "span":
        first = torch.zeros(sizes.batch, dtype=torch.long)
        return {"start_positions": first, "end_positions": first + 1}
    shape: tuple[int, ...] = (TRANSCRIPT,) if task.labels == "transcript" else ()
    if task.labels == "pixels":
        shape = tuple(batch["pixel_values"].shape[-2:])
    return {"labels": torch.ones(sizes.batch, *shape, dtype=torch.long)}


def _classes(config: Any, task: Task) -> int:
    """How many different labels a token may have."""
    return config.num_labels if "TOKEN_CLASSIFICATION" in task.mapping else _vocabulary(config)


def _vocabulary(config: Any) -> int:
    return int(config.get_text_config().vocab_size)


def _vision(config: Any) -> Any:
    found = getattr(config, "vision_config", None)
    return found if found is not None else config


def _image_token(config: Any) -> int:
    """The token that stands for an image, under either of its two names.

    Raises:
        UsageError: there is none.
    """
    for name in ("image_token_id", "image_token_index"):
        found = getattr(config, name, None)
        if found is not None:
            return int(found)
    raise UsageError(f"{config.model_type} names no image_token_id: add it, or write package.module:factory")


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
