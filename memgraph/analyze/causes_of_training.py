"""Causes in how a model is trained: what is checkpointed, cached, updated at once, or too large for any batch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from memgraph.analyze.attribution import starred
from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import largest
from memgraph.trace import Category, Trace
from memgraph.trace.alike import Alike, modules
from memgraph.units import format_bytes

_SHOWS = 0.1
_WHOLE = 0.25
"""Share of the peak that layers computed again have at once, from which on their checkpoint is called too wide."""
_LAYERS = 4
_ALL = 0.75
"""Share of a stack's layers that are alive at once."""
_CACHED = 0.01
_STATIC = (Category.PARAMETER, Category.BUFFER, Category.GRADIENT, Category.OPTIMIZER)
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


def whole_checkpoint(trace: Trace) -> tuple[Finding, ...]:
    """One checkpoint around many layers: the backward computes all of them again before it frees any, and so holds
    what a step without checkpoints would."""
    if trace.compilation is not None:  # whose order is the compiler's
        return ()
    held: defaultdict[str, dict[str, list[Alike]]] = defaultdict(dict)
    again = {number for number, phase in enumerate(trace.phases) if phase.name == "backward"}
    for kind in trace.alike_at(trace.peak.event):
        made = kind.op
        if made is None or made.phase not in again or made.forward >= 0 or kind.buffer.name:
            continue
        if layer := _NUMBER.search(made.module):
            held[starred(made.module[: layer.end()])].setdefault(layer[1], []).append(kind)
    stacks = _stacks(trace) if held else {}
    return tuple(
        _whole(trace, stack, list(chain.from_iterable(layers.values())), len(layers), len(stacks[stack]))
        for stack, layers in held.items()
        if len(layers) >= max(_LAYERS, _ALL * len(stacks[stack]))
        and sum(kind.bytes for kinds in layers.values() for kind in kinds) >= _WHOLE * trace.peak.requested
    )  # fmt: skip


def _stacks(trace: Trace) -> dict[str, set[str]]:
    """The layers of each stack that ran."""
    stacks: defaultdict[str, set[str]] = defaultdict(set)
    for module in modules(trace.ops):
        layer = _NUMBER.search(module)
        if layer:
            stacks[starred(module[: layer.end()])].add(layer[1])
    return stacks


def _whole(trace: Trace, stack: str, kinds: Sequence[Alike], layers: int, of: int) -> Finding:
    size = sum(kind.bytes for kind in kinds)
    source = largest(trace, kinds).source
    return Finding(
        "checkpoint-too-wide",
        f"{format_bytes(size)} at the peak are activations of {layers} of the {of} layers {stack}, computed again in "
        "the backward and alive together: one checkpoint is around all of them.",
        source,
        "a checkpoint computes all that is inside again before the first of it is freed",
        "checkpoint each layer by itself: x = checkpoint(layer, x, use_reentrant=False)",
        size,
    )


def caches(trace: Trace) -> tuple[Finding, ...]:
    """Keys and values kept for tokens to come, in a step that has a backward."""
    step = trace.peak.step
    if not any(phase.step == step and phase.name == "backward" for phase in trace.phases):
        return ()
    kinds = [kind for kind in trace.alike_at(trace.peak.event) if kind.buffer.category is Category.CACHE]
    size, count = sum(kind.bytes for kind in kinds), sum(kind.count for kind in kinds)
    if size < _CACHED * trace.peak.requested:
        return ()
    source = next((kind.op.source for kind in kinds if kind.op), "")
    return (Finding(
        "cache-in-training",
        f"{format_bytes(size)} at the peak are keys and values kept for tokens to come ({count} tensors), and a "
        "training step has none.",
        source,
        "use_cache is on, as the configuration has it unless told otherwise; and a layer that a checkpoint computes "
        "again finds its own keys in it",
        "model(…, use_cache=False), or model.config.use_cache = False",
        size,
    ),)  # fmt: skip


def keeps_a_cache(trace: Trace) -> bool:
    """Whether a step that has a backward keeps keys and values."""
    trained = any(phase.name == "backward" for phase in trace.phases)
    return trained and any(buffer.category is Category.CACHE for buffer in trace.buffers)


def foreach(trace: Trace) -> tuple[Finding, ...]:
    """A peak in the optimizer, of the temporaries that its foreach form makes of all parameters at once."""
    if trace.peak.phase != "optimizer":
        return ()
    kinds = [
        kind for kind in trace.alike_at(trace.peak.event)
        if kind.op and "_foreach_" in kind.op.name and kind.buffer.category in (Category.TEMPORARY, Category.UNKNOWN)
    ]  # fmt: skip
    size = sum(kind.bytes for kind in kinds)
    if size < _SHOWS * trace.peak.requested:
        return ()
    elsewhere = max(
        (
            max(trace.usage[0][phase.start : phase.stop], default=0)
            for phase in trace.phases
            if phase.name != "optimizer"
        ),
        default=0,
    )
    least = max(elsewhere, trace.peak.requested - size)
    where = next(kind.op.source for kind in kinds if kind.op)
    return (Finding(
        "foreach-temporaries",
        f"{format_bytes(size)} at the peak are what the optimizer computes of all parameters at once; without it the "
        f"highest is {format_bytes(least)} instead of {format_bytes(trace.peak.requested)}.",
        where,
        "foreach, the default on CUDA, makes each intermediate result of every parameter before the next",
        _other_forms(trace, where),
        size,
    ),)  # fmt: skip


def _other_forms(trace: Trace, where: str) -> str:
    """What the optimizers that step there, or all if none is known to, have instead of foreach."""
    facts = [fact for fact in trace.facts if fact.kind == "optimizer"]
    known = [fact.text.split(", ") for fact in facts if fact.source == where] or [f.text.split(", ") for f in facts]
    if all("fused" in forms for _, *forms in known):
        return "fused=True, which makes none, or foreach=False, a slower loop"
    names = " and ".join(dict.fromkeys(name for name, *forms in known if "fused" not in forms))
    if all("foreach" in forms for _, *forms in known):
        return f"foreach=False, a slower loop; {names} has no fused form"
    return f"another optimizer, like torch's AdamW with fused=True: {names} has no other form"


def not_the_batch(trace: Trace) -> tuple[Finding, ...]:
    """Where nothing fits whatever the batch: parameters, gradients and optimizer state are more than there is."""
    size = sum(kind.bytes for kind in trace.alike_at(trace.peak.event) if kind.buffer.category in _STATIC)
    if trace.fits or not trace.memory or size <= trace.memory:
        return ()
    return (Finding(
        "not-the-batch",
        f"{format_bytes(size)} of parameters, gradients and optimizer state are more than the "
        f"{format_bytes(trace.memory)} there are: no batch is small enough.",
        "",
        "none of it depends on the batch",
        "moments in 8 bits or factored, parameters in bf16, fewer trained parameters (adapters), or a larger card",
        size,
    ),)  # fmt: skip
