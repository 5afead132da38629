"""Record what single ATen calls allocate on a real GPU, in order: the ground under `memgraph/gpu/rules`.

    python -m benchmarks.accuracy.ops.record OUT.json.gz benchmarks/accuracy/ops/{convolution,layers}.py

Each cases file defines `cases()`, which yields (name, function); the function makes its tensors and returns a callable
that makes the one call to be measured. Written down for each: bytes requested by every allocation and every free, in
order (`+n`, `-n`), and whether the call failed.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch


def measure(prepare: Any) -> list[int] | str:
    """Allocations (positive) and frees (negative) of one call, after a first one has set up libraries."""
    try:
        call = prepare()
        call()
        torch.cuda.synchronize()
        torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=1_000_000)
        result = call()
        torch.cuda.synchronize()
        entries = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(enabled=None)
        del result
        return [
            int(entry["size"]) * (1 if entry["action"] == "alloc" else -1)
            for entry in entries
            if entry["action"] in ("alloc", "free_completed")
        ]
    except Exception as error:  # a case that this GPU refuses is a result too
        torch.cuda.memory._record_memory_history(enabled=None)
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def main() -> None:
    output, *files = sys.argv[1:]
    results: dict[str, Any] = {}
    for file in files:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, prepare in module.cases():
            results[name] = measure(prepare)
            torch.cuda.empty_cache()
    data = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "cases": results,
    }
    Path(output).write_bytes(gzip.compress(json.dumps(data, indent=0).encode()))
    failed = {name: result for name, result in results.items() if isinstance(result, str)}
    print(len(results), "cases,", len(failed), "refused", *failed.items(), sep="\n  ")


if __name__ == "__main__":
    main()
