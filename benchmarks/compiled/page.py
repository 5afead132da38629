"""Predict every recorded compiled run and write docs/compiled-accuracy.md.

    python -m benchmarks.compiled.page            all of benchmarks/recordings/compiled
    python -m benchmarks.compiled.page NAME ...   these, printed only

What the recorded run timed on its card is given to the prediction: which products it padded. Allocations that the
timing itself made are left out of the matching on both sides, since how many there are depends on the card's speed;
they count in the peaks.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.recordings import packed as recordings
from benchmarks.recordings.compared import ERRORS, KINDS, Compared, error, matched, mib, worst
from memgraph.api import predict
from memgraph.trace import Trace
from memgraph.virtual.inductor import tuning

FOLDER = recordings.FOLDER.with_name("compiled")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "compiled-accuracy.md"
TRIAL = "timing.trial.kernel"
HEADING = "## Predicted with torch "


@dataclass(frozen=True, kw_only=True)
class Row(Compared):
    """A recorded run of a compiled model; `matched` and `allocations` leave the compiler's trials out."""

    name: str
    torch: str
    gpu: str
    seconds: float
    own: tuple[int, ...]
    """The predicted peaks where the outcome of padding is an estimate too."""


def compare(path: Path) -> Row:
    """Predict a recorded run."""
    run = json.loads(gzip.decompress(path.read_bytes()))
    measured = recordings.unpack(run)
    outcomes = {trial["key"]: trial["answer"] for trial in run["padded"]}
    start = time.monotonic()
    predicted = _predicted(measured.settings, outcomes)
    seconds = time.monotonic() - start
    _, peak = recordings.allocated_by(predicted, measured.torch)
    own = peak
    if outcomes:
        _, own = recordings.allocated_by(_predicted(measured.settings, {}), measured.torch)
    kept = without_trials(run)
    statistics = measured.settings["statistics"]["end"]
    return Row(
        name=path.name.removesuffix(".json.gz"), matched=matched(step_sizes(predicted), kept), allocations=len(kept),
        predicted=tuple(peak), measured=tuple(statistics[f"{kind}.peak"] for kind in KINDS), torch=measured.torch,
        gpu=measured.gpu, seconds=seconds, own=tuple(own),
    )  # fmt: skip


def _predicted(settings: Any, outcomes: dict[str, bool]) -> Trace:
    tuning.OUTCOMES.clear()
    tuning.OUTCOMES.update(outcomes)
    options = recordings.options_of(settings)
    model = options.model.replace("compiled_models:", "benchmarks.compiled.models:")  # recorded before it moved there
    return predict(dataclasses.replace(options, model=model))


def without_trials(run: dict[str, Any]) -> list[int]:
    """Sizes of the recorded allocations that no benchmark made."""
    left_out = {index for start, stop in run["benchmarks"] for index in range(start, stop)}
    return [size for index, size in enumerate(run["requested"]) if index not in left_out]


def step_sizes(trace: Trace) -> list[int]:
    """Sizes of the predicted ones."""
    return [buffer.size for buffer in trace.buffers if buffer.op < 0 or trace.ops[buffer.op].name != TRIAL]


def table(rows: Sequence[Row]) -> str:
    """A line for each run."""
    lines = [
        (row.name, row.share(2), *map(mib, row.measured), *row.errors, error(row.own[0], row.measured[0]))
        for row in rows
    ]
    headers = ("run", "matched", *KINDS, *ERRORS, "requested, padding estimated")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def section(rows: Sequence[Row]) -> str:
    """What this torch predicts."""
    requested, allocated, reserved = (100 * share for share in worst(rows))
    return f"""{HEADING}{torch.__version__}, no GPU

{table(rows)}

Worst: {requested:.3f} % in requested, {allocated:.3f} % in allocated, {reserved:.2f} % in reserved.
"""


def page(rows: Sequence[Row], before: str) -> str:
    """docs/compiled-accuracy.md: the sections of other versions stay as they were."""
    cards = ", ".join(sorted({f"{row.gpu}, torch {row.torch}" for row in rows}))
    others = [HEADING + text for text in before.split(HEADING)[1:]]
    kept = [text.rstrip() + "\n" for text in others if not text.startswith(f"{HEADING}{torch.__version__},")]
    sections = "\n".join(sorted([section(rows), *kept]))
    return f"""# How exact a compiled step is

Written by `python -m benchmarks.compiled.page` from `benchmarks/recordings/compiled/`; do not edit by hand. Each
version of torch that it is run with writes its own section.

Measured: {cards}, through torch's allocator history
(`benchmarks/compiled/record.py`), each run in a process of its own with empty compile caches. Sizes in MiB.

*matched* counts recorded allocations that the prediction has too, in order and to the byte, without those that
`torch.compile` makes to time kernels; their number depends on the card's speed. Which products the card found faster
when padded is taken from the recording; in the last column it is memgraph's own estimate (see [compile](compile.md)).
Another version of torch has another Inductor, which may compile another step than the one that was measured.

{sections}"""


def main() -> None:
    names = sys.argv[1:]
    paths = [FOLDER / f"{name}.json.gz" for name in names] or sorted(FOLDER.glob("*.json.gz"))
    rows = []
    for path in paths:
        rows.append(compare(path))
        row = rows[-1]
        peaks = [tuple(map(mib, sizes)) for sizes in (row.predicted, row.measured, row.own)]
        print(row.name, row.matched, "of", row.allocations, *peaks, f"{row.seconds:.0f} s", file=sys.stderr, flush=True)
    if not names:
        PAGE.write_text(page(rows, PAGE.read_text() if PAGE.exists() else ""))


if __name__ == "__main__":
    main()
