"""Cards other than the H200: what others measured, from `cards.json` and `published.json` with their sources, beside
predictions and beside what other estimators say."""

from __future__ import annotations

import json
from pathlib import Path

from tabulate import tabulate

from benchmarks.accuracy import published
from benchmarks.recordings.compared import mib
from memgraph.api import predict
from memgraph.options import Options

DATA = json.loads(Path(__file__).with_suffix(".json").read_text())


def section() -> str:
    """The part of docs/accuracy.md on them."""
    h100 = DATA["h100"]
    return f"""## By card

### H200

The runs above are ours.

### H100

{h100["source"][0].upper()}{h100["source"][1:]}. Requested: {h100["requested"]}. Allocated:
{h100["allocated"]}. Reserved: {h100["reserved"]}.
cuDNN's batch norm and workspaces are followed since; these rows were not predicted again.

### RTX 3060, RTX 4060, A100

{published.section()}
### RTX 3090

Measured by others: `torch.cuda.max_memory_allocated` (MiB), {DATA["rtx3090"]["source"]};
its vision tower ran hand-written attention, which is most of what is missing at larger batches.

{_rtx3090()}
"""


def _rtx3090() -> str:
    lines = []
    for batch, seq, real in DATA["rtx3090"]["rows"]:
        trace = predict(Options(batch=batch, seq=seq, gpu="rtx3090"))
        if real is None:
            answer = ("fits", "wrong") if trace.fits else ("does not fit", "agrees")
            lines.append((batch, seq, "out of memory", *answer))
        else:
            own = trace.peak.allocated
            lines.append((batch, seq, f"{real:,.2f}", mib(own), f"{100 * (own / 2**20 / real - 1):+.2f} %"))
    return tabulate(lines, ("batch", "seq", "measured", "predicted", "error"), tablefmt="github", disable_numparse=True)
