"""Predict every recorded run and write docs/accuracy.md.

python -m benchmarks.accuracy.page                 all of benchmarks/recordings/nanovlm and workloads
python -m benchmarks.accuracy.page --check         fail if the page is not what would be written
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.accuracy import cards as other_cards
from benchmarks.accuracy import field as scripts_of_the_field
from benchmarks.checkpoint import table as checkpoint_table
from benchmarks.recordings import packed as recordings
from benchmarks.recordings.compared import ERRORS, KINDS, Compared, matched, mib, worst
from benchmarks.workloads import loops as workloads
from memgraph.api import predict
from memgraph.gpu.cudnn.ask import asker

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
OTHERS_SECTIONS = ("Published programs", "Two GPUs", "Single ops", "Remedies, tried", "Snapshots explained")


@dataclass(frozen=True, kw_only=True)
class Row(Compared):
    """A recorded run of a model."""

    what: str
    load: tuple[int, ...]
    """Predicted less measured after load, three ways."""
    torch: str
    gpu: str
    settings: dict[str, Any]


def compare(path: Path) -> Row:
    """Predict a recorded run."""
    measured = recordings.read(path)
    release = ".".join(map(str, recordings.version_of(measured.torch)))
    predicted = predict(dataclasses.replace(recordings.options_of(measured.settings), torch=release))
    after_load, peak = recordings.allocated_by(predicted, measured.torch)
    statistics = measured.settings["statistics"]
    return Row(
        what=describe(measured.settings),
        matched=matched([b.size for b in predicted.buffers], [b.size for b in measured.buffers]),
        allocations=len(measured.buffers),
        predicted=tuple(peak),
        measured=tuple(statistics["end"][f"{kind}.peak"] for kind in KINDS),
        load=tuple(
            own - statistics["after_load"][f"{kind}.current"] for own, kind in zip(after_load, KINDS, strict=True)
        ),
        torch=measured.torch,
        gpu=measured.gpu,
        settings=dict(measured.settings),
    )


def describe(settings: Any) -> str:
    """A run in a few words; what is not said is AdamW, bf16 autocast, fp32 parameters, two steps."""
    own = {"model": "nanovlm-222m", "amp": "bf16", "dtype": "float32", "optimizer": "adamw",
           "optimizer_impl": "default", "checkpoint": "none", "accumulate": 1, "clip": None}  # fmt: skip
    words = {"amp": "autocast {}", "dtype": "{} parameters", "optimizer_impl": "{} form",
             "checkpoint": "checkpointed {}", "accumulate": "{} micro-batches", "clip": "clipped to {}"}  # fmt: skip
    parts = [f"batch {settings['batch']}", f"seq {settings['seq']}" if settings["seq"] else "own length"]
    parts += [words.get(name, "{}").format(settings[name]) for name in own if settings[name] != own[name]]
    return ", ".join(parts + [f"{name}={value}" for name, value in settings["set"].items()])


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
    lines = [(row.what, row.share(2), *map(mib, row.measured), *row.errors) for row in rows]
    return tabulate(lines, ("run", "matched", *KINDS, *ERRORS), tablefmt="github", disable_numparse=True)


def workloads_table(rows: Sequence[workloads.Row]) -> str:
    """The table of other workloads."""
    lines = [
        (row.name, row.what, row.share(1), mib(row.measured[1]), *row.errors, len(row.notes) or "") for row in rows
    ]
    headers = ("workload", "what it trains", "matched", "allocated", *ERRORS, "listed")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def workloads_section(rows: Sequence[workloads.Row]) -> str:
    """The part of the page on other workloads."""
    errors = sorted(abs(row.predicted[1] / row.measured[1] - 1) for row in rows)
    median = statistics.median(errors)
    return f"""## Other workloads

{len(rows)} training loops of other kinds (`benchmarks/workloads/loops.py`), each recorded on the same H200 in a process
of its own (`benchmarks/recordings/workloads/`) and predicted on a machine without a GPU. None of them was looked at
while the rules of the ops were first written; since then some rules were found by them: a mask whose rows are strided
goes to attention's math path (t5), token ids from the CPU say which rows of a sparse gradient are equal (clicks), a
weight that changes its layout is there twice on its way to the card (diffusion), each direction of a convolution has
a layout of its own (speech). Models of transformers are those of 5.17.0, in both: later ones run T5's attention
otherwise. {_library(True)}. Error of the allocated peak: median **{100 * median:.3f} %**, at most
{100 * errors[-1]:.3f} %. *Listed* counts what the prediction itself lists as assumed or unknown. What is still missing
in resnet and resnet_channels_last are flags of 272 to 400 bytes and parts of weight gradients that cuBLASLt takes for
1 x 1 kernels, which answers only where there is a driver. gan's reserved bytes depend on where the driver put segments:
its recorded requests, given made-up places, need a segment of 20 MiB more in seven of ten placements; with segments
placed upwards they do not, nor did they in that process.

{workloads_table(rows)}
"""


def page(rows: Sequence[Row], others: Sequence[workloads.Row], torch_version: str, before: str) -> str:
    """docs/accuracy.md. Sections that other programs write stay as they were."""
    kept = "\n".join(f"## {text}" for text in before.split("\n## ")[1:] if text.startswith(OTHERS_SECTIONS))
    cards = sorted({f"{row.gpu}, torch {row.torch}" for row in rows})
    exact = sum(row.predicted[0] == row.measured[0] for row in rows)
    requested, allocated, reserved = (100 * share for share in worst(rows))
    least = min(row.matched / row.allocations for row in rows)
    loads = sum(row.load == (0, 0, 0) for row in rows)
    total, hits = sum(row.allocations for row in rows), sum(row.matched for row in rows)
    return f"""# How exact it is

Written by `python -m benchmarks.accuracy.page` from the runs in `benchmarks/recordings/nanovlm/` and
`benchmarks/recordings/workloads/`; do not edit by hand.

Measured: {"; ".join(cards)}, native caching allocator with its default settings, through torch's
allocator history (`benchmarks/accuracy/record_runs.py` with the cases of `runs.json` beside it), each run in a process
of its own. Sizes in MiB. Predicted: torch {torch_version}, no GPU, as for the torch that was measured (`--torch 2.11`),
{_library()}. Unless a row says otherwise: nanovlm-222m,
AdamW in its `foreach` form, bf16 autocast over fp32 parameters, two steps.

- {len(rows)} runs, {total:,} allocations; **{hits:,} ({100 * hits / total:.4f} %) predicted to the byte and in order**;
  in the worst run {100 * least:.2f} %.
- They are {coverage(rows)}.
- Requested peak: exact to the byte in {exact} of {len(rows)} runs; at most {requested:.4f} % off.
- Allocated peak: at most {allocated:.3f} % off. Reserved peak: at most {reserved:.3f} % off.
- After loading the model: requested, allocated and reserved exact in {loads} of {len(rows)} runs.

{runs_table(rows)}

Up to torch 2.11 the lowest address serves where several free blocks fit equally well, and where the driver places
segments is not known beforehand. Given the recorded addresses of the segments, the allocator model reproduces the
allocated and the reserved peak of all these runs to the byte (`tests/gpu/allocator/test_replay.py`). The same step
measured in two processes differs by as much as these errors. Since torch 2.12 the block or the segment that came first
serves, and addresses no longer matter; the model does as the running torch does
(`tests/gpu/allocator/test_against_torch.py` has asked the allocators of all five versions), and above it does as the
torch that was measured.

One reserved figure is far off, that of batch 32 with checkpointed blocks: 27.6 MiB went into the one free segment of
3 GiB, where another hole was as large, and so the next 3 GiB needed a segment more. With segments placed upwards, not
downwards, the model does what that process did (`tests/gpu/allocator/test_replay.py`). `memgraph advise` names five of
these runs as ways to make batch 32 fit; they were recorded for that.

{workloads_section(others)}
## Beside these, on the same H200

From one run of `benchmarks/accuracy/on_gpu.py`, predictions made on that machine with the GPU hidden:

- Of the 14 runs that it recorded, all 174,053 blocks have the addresses that the allocator model gives them, told where
  the segments lie.
- The allocator hook's requested peak is torch's own, 5,303,552,812 bytes, for batch 8 at 128 tokens.
- With 23.7 GiB of the card, batch 32 at 512 is refused after 2,576 allocations, asking for 3,221,291,008 bytes:
  predicted, through torch's allocator with its memory fraction set, and through the hook with `--cap`.
- A step of batch 8 at 512 takes 0.112 s, and through the hook 0.105 s.

{scripts_of_the_field.section()}
{kept}
## With checkpoint plans

{checkpoint_plans()}

{other_cards.section()}
## What these numbers do not cover

- Other GPUs than the H200 were not measured by us. What depends on the card is by rule: workspaces of cuBLAS, the SDPA
  backend, the grid of a reduction; convolutions' are what cuDNN says for the card, but for 1 x 1 and depthwise kernels.
- One process, one GPU, one stream, the native allocator with default settings.
- The CUDA context, which `nvidia-smi` shows on top ({mib(554_500_096)} MiB on this H200), is stated by
  `memgraph analyze` and not part of the peak. Libraries that call `cudaMalloc` themselves (NCCL, cuDNN's own handles)
  are not counted.
- Shapes that depend on the values of data are assumed at their bound, and the assumption is listed.
- Later versions of torch: recordings are from 2.11.
"""


def _library(begins: bool = False) -> str:
    """Which cuDNN was asked."""
    library = asker()
    if library is None or not library.version:
        return ("Without" if begins else "without") + " cuDNN, whose workspaces are estimates"
    major, rest = divmod(library.version, 10_000)
    return f"cuDNN {major}.{rest // 100}.{rest % 100} {'was ' if begins else ''}asked for convolutions' workspaces"


def checkpoint_plans() -> str:
    """What was measured of them, from the result that docs/checkpoint.md has in full."""
    found = json.loads(checkpoint_table.RESULT.read_text())
    plans = [plan for plan in found["plans"].values() if "promised_peak" in plan]
    exact = sum(plan["promised_peak"]["requested"] == plan["peak"]["requested"] for plan in plans)
    off = max(abs(plan["promised_peak"]["allocated"] / plan["peak"]["allocated"] - 1) for plan in plans)
    fastest, median = (max(abs(plan[kind] / plan["promised_ratio"] - 1) for plan in plans)
                       for kind in ("time_ratio", "median_ratio"))  # fmt: skip
    return (
        f"{found['gpu']}, torch {found['torch']}, {len(plans)} plans of `memgraph checkpoint`\n"
        f"([each of them](checkpoint.md#predicted-and-measured)): requested exact in {exact}, allocated at most\n"
        f"{100 * off:.2f} % off. A step takes at most {100 * fastest:.1f} % longer or shorter than promised by the "
        f"fastest of\n20 rounds, {100 * median:.1f} % by their median."
    )


def main() -> None:
    import torch

    rows = []
    for path in sorted(recordings.FOLDER.glob("*.json.gz")):
        rows.append(compare(path))
        print(rows[-1].what, rows[-1].matched, "of", rows[-1].allocations, file=sys.stderr, flush=True)
    others = [workloads.compare(name) for name in workloads.recorded()]
    text = page(rows, others, torch.__version__, PAGE.read_text() if PAGE.exists() else "")
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == text else f"{PAGE} is not what would be written")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
