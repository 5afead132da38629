"""What can be changed to need less memory: each change as data, with what it costs and the code to write."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from memgraph.options import Options
from memgraph.trace import Category, Trace

MICRO_BATCHES = 2
"""Traced of a step that has more while the largest micro-batch that fits is looked for: each further one repeats the
second's requests, and would only cost time."""
WHOLE_STEP = 8
"""Micro-batches of the step that is found and told: it is traced whole, unless it has more than these."""


class Price(IntEnum):
    """What a change costs, the cheapest first."""

    FREE = 0
    """The same numbers in the same time, or less."""
    TIME = 1
    """The same numbers, later."""
    NUMBERS = 2
    """Other roundings: the loss curve has to be looked at."""
    TRAINING = 3
    """Something else is learnt."""


class Change(NamedTuple):
    """One thing to change."""

    name: str
    """Short: `chunked-loss`."""
    title: str
    price: Price
    costs: str
    """In words."""
    code: str
    """The lines to write."""
    apply: Callable[[Options, Trace], Options | None]
    """The options with it; None where it does not apply, or is so already."""


class Advice(NamedTuple):
    """What a change, or several together, would do. Bytes; every figure is a trace's."""

    changes: tuple[Change, ...]
    options: Options
    requested: int
    allocated: int
    reserved: int
    fits: bool
    work: float
    """Floating-point operations for the same samples and tokens, as a share of what they were; 1.0 for as many."""

    @property
    def price(self) -> Price:
        """Of the dearest of them."""
        return max((change.price for change in self.changes), default=Price.FREE)

    @property
    def names(self) -> str:
        """`chunked-loss + checkpoint`."""
        return " + ".join(change.name for change in self.changes)


class Advised(NamedTuple):
    """What can be done about a step."""

    now: Advice
    """As it is, without any change."""
    trace: Trace
    """Of the step as it is."""
    alone: Advice
    """One sample at a time: what no smaller batch gets below."""
    floor: str
    """The phase in which the peak of one sample falls."""
    rows: tuple[Advice, ...]
    """The changes that bring the peak down: those that fit first, the cheapest first."""


def _set(**values: Any) -> Callable[[Options, Trace], Options | None]:
    """These options, unless they are so already."""

    def apply(options: Options, _trace: Trace) -> Options | None:
        changed = dataclasses.replace(options, **values)
        return changed if changed != options else None

    return apply


def _field(name: str, value: str, only_if: Callable[[Any], bool]) -> Callable[[Options, Trace], Options | None]:
    """A field of the model's configuration, where the model has it and it is not so already."""

    def apply(options: Options, trace: Trace) -> Options | None:
        if name not in trace.settings or not only_if(trace.settings[name]):
            return None
        return dataclasses.replace(options, set={**options.set, name: value})

    return apply


def _fuse_attention(options: Options, trace: Trace) -> Options | None:
    fields = ("attention", "vit_attention", "lm_attention")
    by_hand = {name: "sdpa" for name in fields if trace.settings.get(name) == "manual"}
    return dataclasses.replace(options, set={**options.set, **by_hand}) if by_hand else None


def _expand_segments(options: Options, trace: Trace) -> Options | None:
    """Where the allocator holds much more than was asked for at once."""
    wasted = trace.peak.reserved - trace.peak.allocated
    if wasted < trace.peak.reserved // 20 or "expandable_segments" in (options.alloc_conf or ""):
        return None
    parts = [part for part in (options.alloc_conf, "expandable_segments:True") if part]
    return dataclasses.replace(options, alloc_conf=",".join(parts))


_VISION = re.compile(r"vision|visual|vit\b|image_encoder", re.IGNORECASE)


def _freeze_vision(options: Options, trace: Trace) -> Options | None:
    towers = dict.fromkeys(
        buffer.name.partition(".")[0]
        for buffer in trace.buffers
        if buffer.category is Category.PARAMETER and _VISION.search(buffer.name.partition(".")[0])
    )
    return None if options.freeze or not towers else dataclasses.replace(options, freeze=",".join(towers))


def _eight_bit(options: Options, _trace: Trace) -> Options | None:
    if options.optimizer not in ("adam", "adamw"):
        return None
    return dataclasses.replace(options, optimizer="adamw-8bit", optimizer_impl="default")


def _factored(options: Options, _trace: Trace) -> Options | None:
    if options.optimizer not in ("adam", "adamw"):
        return None
    return dataclasses.replace(options, optimizer="adafactor", optimizer_impl="default")


def _fused(options: Options, trace: Trace) -> Options | None:
    return _set(optimizer_impl="fused")(options, trace) if options.optimizer in ("adam", "adamw", "sgd") else None


def _no_foreach(options: Options, trace: Trace) -> Options | None:
    loops = options.optimizer != "adamw-8bit" and options.optimizer_impl != "fused"
    return _set(optimizer_impl="loop")(options, trace) if loops else None


def _autocast(options: Options, trace: Trace) -> Options | None:
    return _set(amp="bf16")(options, trace) if options.amp == "none" and options.dtype == "float32" else None


CHANGES: tuple[Change, ...] = (
    Change("sdpa", "torch's attention in place of hand-written", Price.FREE, "faster",
           "F.scaled_dot_product_attention(q, k, v, attn_mask=mask)", _fuse_attention),
    Change("set-to-none", "free gradients between steps", Price.FREE, "",
           "optimizer.zero_grad(set_to_none=True)", _set(zero_grad="none")),
    Change("fused", "the fused optimizer", Price.FREE, "faster", "AdamW(model.parameters(), fused=True)", _fused),
    Change("expandable", "segments that grow, against fragmentation", Price.FREE, "",
           "PYTORCH_ALLOC_CONF=expandable_segments:True", _expand_segments),
    Change("no-foreach", "the optimizer, one tensor at a time", Price.TIME, "a slower optimizer step",
           "AdamW(model.parameters(), foreach=False)", _no_foreach),
    Change("chunked-loss", "logits and loss in 8 chunks of the tokens", Price.TIME, "the head's product again",
           "loss = chunked_cross_entropy(head, hidden, targets, chunks=8)  # memgraph.models.chunked_loss",
           _field("loss_chunks", "8", lambda chunks: chunks == 1)),
    Change("checkpoint", "recompute every block in the backward", Price.TIME, "the blocks' forward again",
           "x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)  # fewer: memgraph checkpoint",
           _set(checkpoint="blocks")),
    Change("autocast", "bf16 autocast", Price.NUMBERS, "roundings; faster",
           'with torch.autocast("cuda", torch.bfloat16): ...', _autocast),
    Change("adam-8bit", "moments in 8 bits", Price.NUMBERS, "roundings of the moments",
           "bitsandbytes.optim.AdamW8bit(model.parameters())", _eight_bit),
    Change("adafactor", "factored second moments, no first", Price.NUMBERS, "another optimizer",
           "torch.optim.Adafactor(model.parameters())", _factored),
    Change("pure-bf16", "parameters and moments in bf16", Price.NUMBERS, "roundings of the weights",
           "model.to(torch.bfloat16)  # and no autocast", _set(dtype="bfloat16", amp="none")),
    Change("freeze-vision", "do not train the vision tower", Price.TRAINING, "the tower stays as it is; faster",
           "model.vision_encoder.requires_grad_(False)", _freeze_vision),
)  # fmt: skip
"""In the order in which they are tried together: what costs least first."""


def smaller_batches(options: Options) -> list[tuple[Change, Options]]:
    """Fewer samples at a time, as many a step: the divisors of the batch, the largest first."""
    found = []
    for micro in range(options.batch // 2, 0, -1):
        if options.batch % micro == 0:
            times = options.accumulate * options.batch // micro
            found.append((_accumulate(micro, times), dataclasses.replace(options, batch=micro, accumulate=times)))
    return found


def _accumulate(micro: int, times: int) -> Change:
    return Change(
        f"accumulate {times} x {micro}", f"{times} micro-batches of {micro} a step", Price.TIME,
        "smaller products, less of the card used", f"(loss / {times}).backward()  # optimizer.step() every {times}",
        lambda options, _: options,
    )  # fmt: skip


def shorter_sequences(options: Options, seq: int | None) -> list[tuple[Change, Options]]:
    """Half and a quarter of the tokens."""
    lengths = [] if seq is None else [seq // part for part in (2, 4) if seq // part]
    return [(_shorten(length), dataclasses.replace(options, seq=length)) for length in lengths]


def _shorten(length: int) -> Change:
    return Change(
        f"seq {length}", f"samples of {length} tokens", Price.TRAINING, "longer samples are cut or left out",
        f"max_length={length}", lambda options, _: options,
    )  # fmt: skip
