"""Predict every recorded run and write docs/accuracy.md.

python benchmarks/accuracy.py                 all of benchmarks/recordings
python benchmarks/accuracy.py --check         fail if the page is not what would be written
"""

from __future__ import annotations

import dataclasses
import difflib
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import recordings
import workloads
from tabulate import tabulate

from memgraph.api import predict
from memgraph.options import Options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"
KINDS = ("requested", "allocated", "reserved")
SEED = (  # batch, seq, MiB that `torch.cuda.max_memory_allocated` gave on an RTX 3090; None: out of memory
    (1, 512, 4450.70), (8, 512, 9753.21), (16, 512, 16630.95), (32, 512, None), (1, 128, 4447.19), (8, 128, 5174.62),
    (16, 128, 7283.11),
)  # fmt: skip


class Row(NamedTuple):
    """One run, predicted and measured. Bytes."""

    what: str
    matched: int
    allocations: int
    predicted: tuple[int, ...]
    measured: tuple[int, ...]
    load: tuple[int, ...]
    """Predicted less measured after load, three ways."""
    torch: str
    gpu: str
    settings: dict[str, Any]


def options_of(settings: dict[str, Any]) -> Options:
    """The options of a recorded run."""
    names = [field.name for field in dataclasses.fields(Options) if field.name in settings and field.name != "gpu"]
    return Options(gpu="h200", **{name: settings[name] for name in names})


def compare(path: Path) -> Row:
    """Predict a recorded run."""
    measured = recordings.read(path)
    predicted = predict(options_of(dict(measured.settings)))
    after_load, peak = recordings.allocated_by(predicted, measured.torch)
    statistics = measured.settings["statistics"]
    return Row(
        describe(measured.settings),
        matched([b.size for b in predicted.buffers], [b.size for b in measured.buffers]),
        len(measured.buffers),
        tuple(peak),
        tuple(statistics["end"][f"{kind}.peak"] for kind in KINDS),
        tuple(own - statistics["after_load"][f"{kind}.current"] for own, kind in zip(after_load, KINDS, strict=True)),
        measured.torch,
        measured.gpu,
        dict(measured.settings),
    )


def matched(predicted: Sequence[int], measured: Sequence[int]) -> int:
    """How many recorded allocations the prediction has too, in order and to the byte."""
    head = 0
    while head < min(len(predicted), len(measured)) and predicted[head] == measured[head]:
        head += 1
    tail = 0
    while tail < min(len(predicted), len(measured)) - head and predicted[-1 - tail] == measured[-1 - tail]:
        tail += 1
    middle = difflib.SequenceMatcher(
        None, predicted[head : len(predicted) - tail], measured[head : len(measured) - tail], autojunk=False
    )
    return head + tail + sum(block.size for block in middle.get_matching_blocks())


def describe(settings: Any) -> str:
    """A run in a few words; what is not said is AdamW, bf16 autocast, fp32 parameters, two steps."""
    own = {"model": "nanovlm-222m", "amp": "bf16", "dtype": "float32", "optimizer": "adamw",
           "optimizer_impl": "default", "checkpoint": "none", "accumulate": 1, "clip": None}  # fmt: skip
    words = {"amp": "autocast {}", "dtype": "{} parameters", "optimizer_impl": "{} form",
             "checkpoint": "checkpointed {}", "accumulate": "{} micro-batches", "clip": "clipped to {}"}  # fmt: skip
    parts = [f"batch {settings['batch']}", f"seq {settings['seq']}" if settings["seq"] else "own length"]
    parts += [words.get(name, "{}").format(settings[name]) for name in own if settings[name] != own[name]]
    return ", ".join(parts + [f"{name}={value}" for name, value in settings["set"].items()])


def _error(predicted: int, measured: int) -> str:
    if predicted == measured:
        return "exact"
    return f"{100 * (predicted / measured - 1):+.3f} %"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.2f}"


def coverage(rows: Sequence[Row]) -> str:
    """What was varied, so that a reader sees what the figures stand on."""

    def of(**chosen: Any) -> int:
        return sum(all(row.settings[name] == value for name, value in chosen.items()) for row in rows)

    def each(name: str, words: str) -> str:
        values = sorted({row.settings[name] for row in rows})
        return ", ".join(words.format(of(**{name: value}), value) for value in values)

    batches, lengths = ([row.settings[name] for row in rows if row.settings[name]] for name in ("batch", "seq"))
    return (
        f"{each('model', '{} of {}')}; batches {min(batches)} to {max(batches)}, lengths {min(lengths)} to "
        f"{max(lengths)}; {each('optimizer', '{} {}')}; {of(amp='bf16')} in bf16, {of(amp='none')} in fp32, "
        f"{of(amp='fp16')} in fp16; {of(checkpoint='blocks')} with checkpointed blocks"
    )


def runs_table(rows: Sequence[Row]) -> str:
    """The table of recorded runs."""
    lines = [
        (row.what, f"{100 * row.matched / row.allocations:.2f} %", *map(_mib, row.measured),
         *(_error(own, real) for own, real in zip(row.predicted, row.measured, strict=True)))
        for row in rows
    ]  # fmt: skip
    headers = ("run", "matched", *KINDS, *(f"error, {kind}" for kind in KINDS))
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def seed_table() -> str:
    """The six figures that somebody took on an RTX 3090 before memgraph was written, and the one that did not fit."""
    lines = []
    for batch, seq, mib in SEED:
        trace = predict(Options(batch=batch, seq=seq, gpu="rtx3090"))
        if mib is None:
            lines.append(
                (
                    batch,
                    seq,
                    "out of memory",
                    "does not fit" if not trace.fits else "fits",
                    "agrees" if not trace.fits else "wrong",
                )
            )
        else:
            lines.append(
                (
                    batch,
                    seq,
                    f"{mib:,.2f}",
                    _mib(trace.peak.allocated),
                    f"{100 * (trace.peak.allocated / 2**20 / mib - 1):+.2f} %",
                )
            )
    return tabulate(lines, ("batch", "seq", "measured", "predicted", "error"), tablefmt="github", disable_numparse=True)


class Workload(NamedTuple):
    """One of `workloads.py`, predicted and measured. Bytes."""

    name: str
    what: str
    matched: int
    allocations: int
    predicted: tuple[int, ...]
    measured: tuple[int, ...]
    assumed: int
    """Assumptions and unknown ops in the prediction."""


def compare_workload(path: Path) -> Workload:
    """Predict a recorded workload."""
    name = path.name.removesuffix(".json.gz")
    measured, predicted = recordings.read(path), workloads.trace_of(name)
    _, peak = recordings.allocated_by(predicted, measured.torch)
    what = " ".join((workloads.WORKLOADS[name].__doc__ or "").split()).rstrip(".")
    return Workload(
        name, what, matched([b.size for b in predicted.buffers], [b.size for b in measured.buffers]),
        len(measured.buffers), tuple(peak), tuple(measured.peak[:3]),
        len(predicted.assumptions) + len(predicted.unknown_ops),
    )  # fmt: skip


def workloads_table(rows: Sequence[Workload]) -> str:
    """The table of other workloads."""
    lines = [
        (row.name, row.what, f"{100 * row.matched / row.allocations:.1f} %", _mib(row.measured[1]),
         *(_error(own, real) for own, real in zip(row.predicted, row.measured, strict=True)), row.assumed or "")
        for row in rows
    ]  # fmt: skip
    headers = ("workload", "what it trains", "matched", "allocated", *(f"error, {kind}" for kind in KINDS), "listed")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def workloads_section(rows: Sequence[Workload]) -> str:
    """The part of the page on other workloads."""
    errors = sorted(abs(row.predicted[1] / row.measured[1] - 1) for row in rows)
    return f"""## Other workloads

{len(rows)} training loops of other kinds (`benchmarks/workloads.py`, `more_workloads.py`), each recorded on the same
H200 in a process of its own (`benchmarks/workload_recordings/`) and predicted on a machine without a GPU. None of them
was looked at while the rules of the ops were first written; since then the estimates of cuDNN's convolutions were read
off resnet, unet and gru, and two rules were found by the rest: a mask whose rows are strided goes to attention's math
path (t5), and token ids from the CPU say which rows of a sparse gradient are equal (clicks). Models of transformers are
those of 5.17.0, in both: later ones run T5's attention otherwise. Error of the allocated peak: median
**{100 * statistics.median(errors):.3f} %**, at most
{100 * errors[-1]:.3f} %. *Listed* counts what the prediction itself lists as assumed or unknown: mostly workspaces of
cuDNN's convolutions, for which it picks its kernels by itself.

{workloads_table(rows)}
"""


def page(rows: Sequence[Row], others: Sequence[Workload], torch_version: str) -> str:
    """docs/accuracy.md."""
    cards = sorted({f"{row.gpu}, torch {row.torch}" for row in rows})
    exact = sum(row.predicted[0] == row.measured[0] for row in rows)
    worst = [max(abs(row.predicted[i] / row.measured[i] - 1) for row in rows) for i in range(3)]
    least = min(row.matched / row.allocations for row in rows)
    loads = sum(row.load == (0, 0, 0) for row in rows)
    total, hits = sum(row.allocations for row in rows), sum(row.matched for row in rows)
    return f"""# How exact it is

Written by `python benchmarks/accuracy.py` from the runs in `benchmarks/recordings/` and `workload_recordings/`; do not
edit by hand.

Measured: {"; ".join(cards)}, native caching allocator with its default settings, through torch's allocator history
(`benchmarks/record_runs.py` with the cases of `benchmarks/runs.json`), each run in a process of its own. Sizes in MiB.
Predicted: torch {torch_version}, no GPU. Unless a row says otherwise: nanovlm-222m, AdamW in its `foreach` form, bf16
autocast over fp32 parameters, two steps.

- {len(rows)} runs, {total:,} allocations; **{hits:,} ({100 * hits / total:.4f} %) predicted to the byte and in order**;
  in the worst run {100 * least:.2f} %.
- They are {coverage(rows)}.
- Requested peak: exact to the byte in {exact} of {len(rows)} runs; at most {100 * worst[0]:.4f} % off.
- Allocated peak: at most {100 * worst[1]:.3f} % off. Reserved peak: at most {100 * worst[2]:.3f} % off.
- After loading the model: requested, allocated and reserved exact in {loads} of {len(rows)} runs.

{runs_table(rows)}

Up to torch 2.11 the lowest address serves where several free blocks fit equally well, and where the driver places
segments is not known beforehand. Given the recorded addresses of the segments, the allocator model reproduces the
allocated and the reserved peak of all these runs to the byte (`tests/test_replay.py`). The same step measured in two
processes differs by as much as these errors. Since torch 2.12 the block or the segment that came first serves, and
addresses no longer matter; the model does as the running torch does (`tests/test_allocator_of_torch.py` has asked the
allocators of all five versions), and above it does as the torch that was measured.

One reserved figure is far off, that of batch 32 with checkpointed blocks: 27.6 MiB went into the one free segment of
3 GiB, where another hole was as large, and so the next 3 GiB needed a segment more. With segments placed upwards, not
downwards, the model does what that process did (`tests/test_replay.py`). `memgraph advise` names five of these runs
as ways to make batch 32 fit; they were recorded for that.

{workloads_section(others)}
## Beside these, on the same H200

From one run of `benchmarks/on_gpu.py`, predictions made on that machine with the GPU hidden:

- Of the 14 runs that it recorded, all 174,053 blocks have the addresses that the allocator model gives them, told where
  the segments lie.
- The allocator hook's requested peak is torch's own, 5,303,552,812 bytes, for batch 8 at 128 tokens.
- With 23.7 GiB of the card, batch 32 at 512 is refused after 2,576 allocations, asking for 3,221,291,008 bytes:
  predicted, through torch's allocator with its memory fraction set, and through the hook with `--cap`.
- A step of batch 8 at 512 takes 0.112 s, and through the hook 0.105 s.

## An RTX 3090, measured by others

Figures of `torch.cuda.max_memory_allocated` (MiB) that were taken on an RTX 3090 with a fork of nanoVLM whose vision
tower ran hand-written attention; that is most of what is missing at larger batches.

{seed_table()}

## What these numbers do not cover

- Other GPUs than the H200 were not measured by us. What depends on the card is by rule: workspaces of cuBLAS and
  cuDNN, the SDPA backend, the grid of a reduction. The workspace of a convolution that was not measured is listed as an
  assumption in the result.
- One process, one GPU, one stream, the native allocator with default settings.
- The CUDA context, which `nvidia-smi` shows on top ({_mib(554_500_096)} MiB on this H200), is stated by
  `memgraph analyze` and not part of the peak. Libraries that call `cudaMalloc` themselves (NCCL, cuDNN's own handles)
  are not counted.
- Shapes that depend on the values of data are assumed at their bound, and the assumption is listed.
- Later versions of torch: predictions under 2.13 were compared with recordings from 2.11.
"""


def main() -> None:
    import torch

    rows = []
    for path in sorted(recordings.FOLDER.glob("*.json.gz")):
        rows.append(compare(path))
        print(rows[-1].what, rows[-1].matched, "of", rows[-1].allocations, file=sys.stderr, flush=True)
    others = [compare_workload(path) for path in sorted(workloads.FOLDER.glob("*.json.gz"))]
    text = page(rows, others, torch.__version__)
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == text else f"{PAGE} is not what would be written")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
