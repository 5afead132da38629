"""What each operator of torch's own database allocates, forward and backward, on a card and on the virtual GPU.

    python -m benchmarks.accuracy.op_allocations record OUT.json.gz          on a machine with a card
    memgraph run --gpu h200 benchmarks/accuracy/op_allocations.py record OUT.json.gz              or without one
    python -m benchmarks.accuracy.op_allocations compare CARD.json.gz PREDICTED.json.gz    a table in Markdown

Samples are made on the CPU from one seed; a sample's allocations and frees are those of the allocator's own history.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.utils import _pytree

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script it is not in its package

from tests.virtual.ops.op_db import dtypes_of, name_of, on_the_device, operators

SAMPLES = 4
"""The first so many of each operator, in its first type."""
_WORKSPACE = 32 * 2**20
"""cuBLASLt's on Hopper, which the first product of a process takes."""
Recorded = Mapping[str, Any]
"""By `operator#sample fwd` or `bwd`: bytes allocated, or freed if negative, in order; or the error, in words."""


def record() -> Recorded:
    """All that can be called."""
    found: dict[str, Any] = {}
    for op in operators():
        for number, sample in enumerate(_samples(op)):
            found |= _measured(op, sample, f"{name_of(op)}#{number}")
    return found


def _samples(op: Any) -> Iterator[Any]:
    for dtype in dtypes_of(op)[:1]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cuda")
        yield from itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=differentiable), SAMPLES)


def _measured(op: Any, sample: Any, name: str) -> Recorded:
    try:
        given, args, kwargs = on_the_device(op, (sample.input, sample.args, sample.kwargs))
        result, forward = _history(lambda: _called(op, sample, given, args, kwargs))
        ends, leaves = _wanting(result), _wanting((given, args, kwargs))
        if not ends or not leaves:
            return {f"{name} fwd": forward}
        ones = list(map(torch.ones_like, ends))
        _, backward = _history(lambda: torch.autograd.grad(ends, leaves, ones, allow_unused=True))
        return {f"{name} fwd": forward, f"{name} bwd": backward}
    except Exception as error:  # an operator that is refused is a row like others
        return {f"{name} fwd": f"{type(error).__name__}: {str(error)[:80]}"}


def _called(op: Any, sample: Any, given: Any, args: Any, kwargs: Any) -> Any:
    result = op(given, *args, **kwargs)
    return sample.output_process_fn_grad(result) if sample.output_process_fn_grad else result


def _history(call: Callable[[], Any]) -> tuple[Any, list[int]]:
    torch.cuda.memory._record_memory_history(max_entries=4000)
    try:
        result = call()
        events = torch.cuda.memory._snapshot()["device_traces"][0]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    signs = {"alloc": 1, "free_requested": -1}
    return result, [signs[event["action"]] * event["size"] for event in events if event["action"] in signs]


def _wanting(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def compare(card: Recorded, predicted: Recorded) -> str:
    """How many calls allocate the same bytes, in any order (frees of an earlier sample fall where Python's collector
    runs), and the operators whose calls do not."""
    both = [name for name in card if name in predicted and isinstance(card[name], list)]
    differ: dict[str, int] = {}
    for name in both:
        if _allocated(card[name]) != _allocated(predicted[name]):
            operator = name.partition("#")[0]
            differ[operator] = differ.get(operator, 0) + 1
    rows = [(f"`{operator}`", count) for operator, count in sorted(differ.items())]
    told = f"{len(both) - sum(differ.values()):,} of {len(both):,} calls alike"
    return told + "\n\n" + tabulate(rows, ("operator", "calls that differ"), tablefmt="github")


def _allocated(events: Any) -> list[int] | None:
    if not isinstance(events, list):
        return None
    return sorted(size for size in events if size > 0 and size != _WORKSPACE)


def main(what: str, first: str, second: str = "") -> None:
    if what == "record":
        Path(first).write_bytes(gzip.compress(json.dumps(record()).encode(), 9, mtime=0))
        return
    print(compare(*(json.loads(gzip.decompress(Path(name).read_bytes())) for name in (first, second))))


if __name__ == "__main__":
    main(*sys.argv[1:])
