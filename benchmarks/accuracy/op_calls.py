"""Which ATen ops torch calls on the device for each operator of its own database, and what one release calls that
another did not.

    python -m benchmarks.accuracy.op_calls record OUT.json [FIRST]  under the torch that is installed; goes on where OUT
                                                                    ends, or begins with the operator FIRST
    python -m benchmarks.accuracy.op_calls compare OLD.json NEW.json      a table in Markdown
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.utils import _pytree

import memgraph
from tests.virtual.ops.op_db import dtypes_of, name_of, on_the_device, operators


def record(out: Path, first: str = "", samples: int = 1) -> None:
    """Names of the ops, forward and backward, of the first samples of each operator in its first type; operators that
    the virtual GPU refuses have those before the refusal. Written every twenty operators, for a run that dies."""
    found: dict[str, list[str]] = json.loads(out.read_text()) if out.exists() else {}
    names = [name_of(op) for op in operators()]
    start = names.index(first) if first else 0
    for count, (name, op) in enumerate(zip(names[start:], operators()[start:], strict=True)):
        if name not in found:
            found[name] = sorted(_calls(op, samples))
        if count % 20 == 0:
            out.write_text(json.dumps(found, indent=0))
    out.write_text(json.dumps(found, indent=0))


def _calls(op: Any, samples: int) -> set[str]:
    found: set[str] = set()
    for dtype in dtypes_of(op)[:1]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cuda")
        made = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=differentiable), samples))
        with memgraph.virtual_gpu("h200") as gpu:
            for sample in made:
                _run(op, sample)
        found |= {each.name for each in gpu.trace.ops}
    return found


def _run(op: Any, sample: Any) -> None:
    try:
        given, args, kwargs = on_the_device(op, (sample.input, sample.args, sample.kwargs))
        result = op(given, *args, **kwargs)
        result = sample.output_process_fn_grad(result) if sample.output_process_fn_grad else result
        ends, leaves = _wanting(result), _wanting((given, args, kwargs))
        if ends and leaves:
            torch.autograd.grad(ends, leaves, list(map(torch.ones_like, ends)), allow_unused=True)
    except Exception as error:  # an operator that is refused is counted as far as it came
        print(name_of(op), type(error).__name__, str(error)[:80], file=sys.stderr)


def _wanting(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def compare(old: dict[str, list[str]], new: dict[str, list[str]]) -> str:
    """Operators that both have, by what the newer one calls and the older did not."""
    changed: dict[tuple[str, str], list[str]] = {}
    for name in old.keys() & new.keys():
        more, less = (_words(set(a) - set(b)) for a, b in ((new[name], old[name]), (old[name], new[name])))
        if more:
            changed.setdefault((more, less), []).append(f"`{name}`")
    lines = sorted((", ".join(sorted(names)), *words) for words, names in changed.items())
    return tabulate(lines, ("operator", "newly called", "no longer"), tablefmt="github")


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.removeprefix("aten.").removesuffix(".default") for name in names))


def main(what: str, first: str, second: str = "") -> None:
    if what == "record":
        record(Path(first), second)
        return
    print(compare(json.loads(Path(first).read_text()), json.loads(Path(second).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
