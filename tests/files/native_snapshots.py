"""Snapshots with frames of C++ alone, as torch writes them of a predicted run: what a fast recording has
(`torch.cuda.memory._record_memory_history(stacks="cpp")`), in the form of torch 2.1 and of torch 2.6."""

from __future__ import annotations

from typing import Any

from memgraph.render.snapshot import snapshot
from memgraph.trace import Action, Op, Trace
from tests.files.stacks_by_hand import ALLOCATE, ENGINE, native

_YOUNGER = ("time_us", "compile_context", "device_free")
"""What entries have had since torch 2.2 or later."""


def in_native_frames(trace: Trace, *, old: bool, inference: bool = False) -> dict[str, Any]:
    """The snapshot, for `pickle.dumps`.

    Args:
        old: as torch 2.1 writes it: without allocator settings, times, and expandable segments.
        inference: of torch.inference_mode, in which nothing passes through autograd.
    """
    data = snapshot(trace)
    births = [
        (place, buffer) for place, (action, buffer) in enumerate(zip(*trace.events.columns[:2], strict=True))
        if action == Action.ALLOC
    ]  # fmt: skip
    entries = data["device_traces"][0]
    asked = iter(births)
    at: dict[int, Any] = {}
    for entry in entries:
        entry["frames"] = []
        if entry["action"] == "alloc":
            place, buffer = next(asked)
            made = trace.buffers[buffer].op
            entry["frames"] = (
                _stack(trace, trace.ops[made], "" if inference else trace.phase_at(place).name) if made >= 0 else []
            )
            at[entry["addr"]] = entry["frames"]
        for name in _YOUNGER * old:
            entry.pop(name, None)
    for segment in data["segments"]:
        for name in ("is_expandable", "segment_pool_id") * old:
            segment.pop(name, None)
        for block in segment["blocks"]:
            block["frames"] = at.get(block.get("address"), [])
    if old:
        return {"segments": data["segments"], "device_traces": data["device_traces"]}
    return data


def _stack(trace: Trace, op: Op, phase: str) -> list[dict[str, Any]]:
    """An op below autograd in a forward, under its node in a backward, by itself elsewhere."""
    name = _base(op)
    if phase == "backward":
        of = _base(trace.ops[op.forward]) if op.forward >= 0 else ""
        node = "".join(part.capitalize() for part in of.strip("_").split("_"))
        nodes = native(f"torch::autograd::generated::{node}Backward0::apply(std::vector<at::Tensor>&&)") if of else []
        return [*ALLOCATE, *native(f"at::_ops::{name}::call(at::Tensor const&)"), *nodes, *ENGINE]
    above = native(
        f"at::_ops::{name}::redispatch(c10::DispatchKeySet, at::Tensor const&)",
        f"torch::autograd::VariableType::(anonymous namespace)::{name}(c10::DispatchKeySet)",
    )
    return [*ALLOCATE, *(above if phase == "forward" else []), *native(f"at::_ops::{name}::call(at::Tensor const&)")]


def _base(op: Op) -> str:
    return op.name.removeprefix("aten.").partition(".")[0]
