"""Causes in how a model is trained: what is checkpointed, cached, updated at once, or too large for any batch."""

from __future__ import annotations

import re
from collections import defaultdict

from memgraph.analyze.attribution import starred
from memgraph.analyze.finding import Finding
from memgraph.trace import Category, Trace
from memgraph.trace.alike import modules
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
    held: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
    again = {number for number, phase in enumerate(trace.phases) if phase.name == "backward"}
    for index in trace.live_at(trace.peak.event):
        made = trace.ops[trace.buffers[index].op] if trace.buffers[index].op >= 0 else None
        layer = _NUMBER.search(made.module) if made is not None else None
        if made is not None and layer and made.phase in again and made.forward < 0 and not trace.buffers[index].name:
            held[starred(made.module[: layer.end()])].setdefault(layer[1], []).append(index)
    stacks = _stacks(trace) if held else {}
    return tuple(
        _whole(trace, stack, [index for rows in layers.values() for index in rows], len(layers), len(stacks[stack]))
        for stack, layers in held.items()
        if len(layers) >= max(_LAYERS, _ALL * len(stacks[stack]))
        and sum(trace.buffers[index].size for rows in layers.values() for index in rows)
        >= _WHOLE * trace.peak.requested
    )  # fmt: skip


def _stacks(trace: Trace) -> dict[str, set[str]]:
    """The layers of each stack that ran."""
    stacks: defaultdict[str, set[str]] = defaultdict(set)
    for module in modules(trace.ops):
        layer = _NUMBER.search(module)
        if layer:
            stacks[starred(module[: layer.end()])].add(layer[1])
    return stacks


def _whole(trace: Trace, stack: str, rows: list[int], layers: int, of: int) -> Finding:
    size = sum(trace.buffers[index].size for index in rows)
    largest = max(rows, key=lambda index: trace.buffers[index].size)
    source = trace.ops[trace.buffers[largest].op].source
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
    rows = [i for i in trace.live_at(trace.peak.event) if trace.buffers[i].category is Category.CACHE]
    size = sum(trace.buffers[index].size for index in rows)
    if size < _CACHED * trace.peak.requested:
        return ()
    source = next((trace.ops[trace.buffers[i].op].source for i in rows if trace.buffers[i].op >= 0), "")
    return (Finding(
        "cache-in-training",
        f"{format_bytes(size)} at the peak are keys and values kept for tokens to come ({len(rows)} tensors), and a "
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
    rows = [
        index for index in trace.live_at(trace.peak.event)
        if trace.buffers[index].op >= 0 and "_foreach_" in trace.ops[trace.buffers[index].op].name
        and trace.buffers[index].category in (Category.TEMPORARY, Category.UNKNOWN)
    ]  # fmt: skip
    size = sum(trace.buffers[index].size for index in rows)
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
    return (Finding(
        "foreach-temporaries",
        f"{format_bytes(size)} at the peak are what the optimizer computes of all parameters at once; without it the "
        f"highest is {format_bytes(least)} instead of {format_bytes(trace.peak.requested)}.",
        trace.ops[trace.buffers[rows[0]].op].source,
        "foreach, the default on CUDA, makes each intermediate result of every parameter before the next",
        "fused=True, which makes none, or foreach=False, a slower loop",
        size,
    ),)  # fmt: skip


def not_the_batch(trace: Trace) -> tuple[Finding, ...]:
    """Where nothing fits whatever the batch: parameters, gradients and optimizer state are more than there is."""
    rows = [i for i in trace.live_at(trace.peak.event) if trace.buffers[i].category in _STATIC]
    size = sum(trace.buffers[index].size for index in rows)
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
