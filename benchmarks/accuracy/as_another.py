"""The recorded loops of `benchmarks/workloads` as one release of torch predicts them under another that is installed.

    python -m benchmarks.accuracy.as_another peaks OUT.json [RELEASE]     peaks as RELEASE, or as the installed one
    python -m benchmarks.accuracy.as_another compare NATIVE.json OTHER.json

The first under torch 2.11, and under another with RELEASE 2.11; cuDNN is left out, for its answers are its version's.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.workloads import loops


def peaks(out: Path, release: str | None) -> None:
    """Requested, allocated and reserved peak of each loop, and a digest of its allocations; goes on where OUT ends."""
    os.environ["MEMGRAPH_CUDNN"] = "off"
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name in loops.recorded():
        if name in found:
            continue
        trace = loops.trace_of(name, release)
        sizes = [buffer.size for buffer in trace.buffers]
        found[name] = [*trace.peak[:3], hashlib.sha1(repr(sizes).encode()).hexdigest()]
        out.write_text(json.dumps(found, indent=0))
        print(name, *found[name], flush=True)


def compare(native: dict[str, Any], other: dict[str, Any]) -> None:
    """Print which are alike."""
    both = sorted(native.keys() & other.keys())
    for what, place in (("requested", 0), ("allocated", 1), ("reserved", 2), ("every allocation", 3)):
        differ = [name for name in both if native[name][place] != other[name][place]]
        print(f"{what}: the same in {len(both) - len(differ)} of {len(both)}", *differ)
        if place < 3:
            for name in differ:
                print("   ", name, native[name][place], other[name][place])


def main(what: str, first: str, second: str | None = None) -> None:
    if what == "peaks":
        peaks(Path(first), second)
        return
    assert second is not None, "two files"
    compare(json.loads(Path(first).read_text()), json.loads(Path(second).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
