"""The ATen calls of nanoVLM's step that touch the device, with shapes and dtypes: on a real GPU, or on a virtual one.

    python -m benchmarks.accuracy.op_sequence real    OUT.txt.gz [small]     on the GPU that is there
    python -m benchmarks.accuracy.op_sequence virtual OUT.txt.gz [small]     on a virtual H200, GPU there or not
    python -m benchmarks.accuracy.op_sequence compare A.txt.gz B.txt.gz

Both runs are seen by the same dispatch mode, so the same list means the same calls. `small` is two blocks of each
stack.
"""

from __future__ import annotations

import difflib
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from memgraph.capture.step import run_steps
from memgraph.models.registry import resolve
from memgraph.options import Options

SMALL = {"vit_n_blocks": "2", "lm_n_blocks": "2"}


class Log(TorchDispatchMode):
    """Writes down each call that has a tensor on the device among its arguments or results."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = list(_specs((*args, *(kwargs or {}).values())))
        outputs = list(_specs((result,)))
        if any(device == "cuda" for device, _ in (*inputs, *outputs)) and func.namespace == "aten":
            self.lines.append(
                f"{func}({', '.join(text for _, text in inputs)}) -> {', '.join(text for _, text in outputs)}"
            )
        return result


def _specs(values: Any) -> Any:
    for value in values:
        if isinstance(value, Tensor):
            shape = "x".join(map(str, value.shape))
            yield value.device.type, f"{str(value.dtype).removeprefix('torch.')}[{shape}]"
        elif isinstance(value, (list, tuple)):
            yield from _specs(value)


def collect(kind: str, small: bool) -> list[str]:
    """The calls of two steps at batch 2 and 128 tokens."""
    options = Options(batch=2, seq=128, gpu="h200", set=SMALL if small else {})
    log = Log()
    if kind == "real":
        job = resolve(options.model).build(options.set, options.batch, options.seq)
        with log:
            run_steps(job, options, lambda _: None, lambda *_: None)
        return log.lines
    from memgraph.capture.session import VirtualGpu

    with VirtualGpu("h200", fake_everywhere=True) as gpu:
        job = resolve(options.model).build(options.set, options.batch, options.seq)
        with log:
            run_steps(job, options, gpu.mark, lambda *_: None)
    return log.lines


def main() -> None:
    command, first, *rest = sys.argv[1:]
    if command == "compare":
        texts = [gzip.decompress(Path(path).read_bytes()).decode().splitlines()[1:] for path in (first, rest[0])]
        changes = [
            line
            for line in difflib.unified_diff(*texts, lineterm="", n=0)
            if line[:1] in "+-" and line[:3] not in ("+++", "---")
        ]
        print(f"{len(texts[0])} and {len(texts[1])} calls, {len(changes)} lines differ", *changes[:20], sep="\n  ")
        return
    lines = collect(command, "small" in rest)
    header = f"# torch {torch.__version__}, {torch.cuda.get_device_name() if command == 'real' else 'virtual H200'}"
    Path(first).write_bytes(gzip.compress("\n".join([header, *lines]).encode(), 9, mtime=0))
    print(header, len(lines), "calls")


if __name__ == "__main__":
    main()
