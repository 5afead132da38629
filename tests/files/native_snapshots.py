"""Snapshots with frames of C++ alone, as torch writes them of a predicted run: what a fast recording has
(`torch.cuda.memory._record_memory_history(stacks="cpp")`), in the form of torch 2.1 and of torch 2.6."""

from __future__ import annotations

from collections.abc import Callable
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


def as_torch_2_0(data: dict[str, Any]) -> dict[str, Any]:
    """The same as torch 2.0 writes it: frames of C++ are one text beside those of Python, of which an autograd thread
    has none, and blocks have no address but the history of what they held (torch/csrc/cuda/Module.cpp)."""
    segments = [
        {**segment, "blocks": [_block_of_2_0(block) for block in segment["blocks"]]} for segment in data["segments"]
    ]
    traces = [[{"frames": [], **_backtrace(entry), **_others(entry)} for entry in trace]
              for trace in data["device_traces"]]  # fmt: skip
    return {"segments": segments, "device_traces": traces}


def _others(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "frames"}


def _backtrace(told: dict[str, Any]) -> dict[str, Any]:
    lines = (
        f"frame #{number}: {frame['name']} + 0x1d (0x7f{number:010x} in /lib/python3.10/libtorch_cpu.so)\n"
        for number, frame in enumerate(told["frames"])
    )
    return {"cpp_frames": "".join(lines) + "<omitting python frames>\n"} if told["frames"] else {}


def _block_of_2_0(block: dict[str, Any]) -> dict[str, Any]:
    history = {"addr": block["address"], "real_size": block["requested_size"], "frames": [], **_backtrace(block)}
    used = block["state"] != "inactive"
    return {"size": block["size"], "state": block["state"], **({"history": [history]} if used else {})}


def renamed(data: dict[str, Any], how: Callable[[str], str]) -> dict[str, Any]:
    """With other names of the same functions."""
    for one in (*data["device_traces"][0], *(block for segment in data["segments"] for block in segment["blocks"])):
        one["frames"] = [{**frame, "name": how(frame["name"])} for frame in one["frames"]]
    return data


def mangled(name: str) -> str:
    """As a compiler writes it."""
    parts = name.replace("(anonymous namespace)", "_GLOBAL__N_1").partition("(")[0].split("::")
    return "_ZN" + "".join(f"{len(part)}{part}" for part in parts if part.isidentifier()) + "ERKNS_6TensorES3_"


def of_windows(name: str) -> str:
    """Without what it takes."""
    return name.replace("(anonymous namespace)", "`anonymous namespace'").partition("(")[0]
