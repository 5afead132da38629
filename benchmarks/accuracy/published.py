"""What others measured on an RTX 3060, an RTX 4060 and an A100 (`published.json`), beside our prediction and beside
what other estimators say of the same rows.

    python -m benchmarks.accuracy.published predict [TEXT]    make published_predicted.json, or print rows with TEXT

It needs torchvision and transformers 4.51.3, which is about what those runs had. Their torch was 2.6.0 with cuDNN 9.1,
which answers no question without a card: 9.8.0 is the first that does (`MEMGRAPH_CUDNN`). Ties in the allocator are
decided as in 2.11, which has not changed since 2.6.
"""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks.accuracy.published_runs import LANGUAGE, run
from memgraph.trace import Action, Category, Trace

HERE = Path(__file__).resolve()
DATA = json.loads(HERE.with_suffix(".json").read_text())
PREDICTED = HERE.with_name("published_predicted.json")
ESTIMATORS = ("xMem", "DNNMem", "SchedTune", "LLMem")
RULES = "2.11"


class Estimate(NamedTuple):
    """What another estimator said of a row."""

    size: int
    refuses: bool
    refused: bool | None
    """Whether the run ended for want of memory when it was allowed so much; None where that was not tried."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run that others measured. Bytes."""

    card: str
    model: str
    optimizer: str
    batch: int
    zero_grad: int
    measured: int
    out_of_memory: bool
    estimates: dict[str, Estimate]

    @property
    def name(self) -> str:
        return f"{self.card} {self.model} {self.optimizer} {self.batch}"

    @property
    def is_language(self) -> bool:
        return self.model in LANGUAGE

    def cap_of(self, estimate: Estimate) -> int:
        """What they allowed the run: the estimate as hundredths of the card."""
        total = DATA["totals"][self.card]
        return int(min(1.0, round(estimate.size / total, 2)) * total)

    def caps(self) -> Iterator[tuple[int, bool]]:
        """Limits under which it was run, and whether it was refused there."""
        for estimate in self.estimates.values():
            if estimate.refused is not None:
                yield self.cap_of(estimate), estimate.refused


def rows() -> list[Row]:
    """Those of `published.json`."""
    return [_row(*columns) for columns in DATA["rows"]]


def _row(
    card: str, model: str, optimizer: str, batch: int, zero_grad: int | None, measured: int, oom: bool, *said: Any
) -> Row:
    estimates = {name: Estimate(*one) for name, one in zip(ESTIMATORS, said, strict=True) if one is not None}
    return Row(
        card=card, model=model, optimizer=optimizer, batch=batch, zero_grad=zero_grad or 0, measured=measured,
        out_of_memory=oom, estimates=estimates,
    )  # fmt: skip


def predict(row: Row) -> dict[str, Any]:
    """Peaks on the card, None where it refuses the run, and whether each of the limits refuses it."""
    from memgraph.gpu.specs import find

    room = DATA["totals"][row.card] - find(row.card).context
    there = _traced(row, room)
    if there is None:
        return {"peaks": None, "caps": {str(cap): True for cap, _ in row.caps()}}
    peaks, least = tuple(there.peak[:3]), _without_workspaces(there)
    caps = {cap: least > cap or (peaks[2] > cap and _traced(row, min(cap, room)) is None) for cap, _ in row.caps()}
    return {"peaks": peaks, "caps": {str(cap): refused for cap, refused in caps.items()}}


def _traced(row: Row, memory: int) -> Trace | None:
    """None where an allocation is refused."""
    import torch

    import memgraph

    with memgraph.virtual_gpu(row.card, memory=memory, torch=RULES) as gpu:
        try:
            run(row.model, row.optimizer, row.batch, row.zero_grad)
        except torch.cuda.OutOfMemoryError:
            return None
    return gpu.trace if gpu.trace.fits else None


def _without_workspaces(trace: Trace) -> int:
    """Bytes that are asked for at once whatever a convolution does without: less than that is refused untraced."""
    live = most = 0
    actions, buffers = trace.events.columns[:2]
    for action, index in zip(actions, buffers, strict=True):
        buffer = trace.buffers[index]
        if buffer.category == Category.WORKSPACE:
            continue
        if action == Action.ALLOC:
            live += buffer.size
            most = max(most, live)
        elif action in (Action.FREE, Action.FREE_REQUESTED):
            live -= buffer.size
    return most


def predict_all(only: str) -> None:
    """Those with `only` in their names; into the file where it is all of them."""
    found = {}
    for row in rows():
        if only in row.name:
            found[row.name] = predict(row)
            print(_line(row, found[row.name]), file=sys.stderr, flush=True)
    if not only:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
        PREDICTED.write_text("{\n" + lines + "\n}\n")


def _line(row: Row, found: dict[str, Any]) -> str:
    verdicts = [found["caps"][str(cap)] == refused for cap, refused in row.caps()]
    off = "refused" if found["peaks"] is None else f"{100 * (found['peaks'][2] / row.measured - 1):+.2f} %"
    right = (found["peaks"] is None) == row.out_of_memory
    return f"{row.name} zero_grad {row.zero_grad}: {off}, verdict {right}, caps {sum(verdicts)} of {len(verdicts)}"


class Compared(NamedTuple):
    """A row beside its prediction."""

    row: Row
    found: dict[str, Any]

    @property
    def error(self) -> float:
        """Of reserved bytes, in per cent."""
        return 100 * (self.found["peaks"][2] / self.row.measured - 1) if self.found["peaks"] else float("nan")

    def others(self, name: str) -> float | None:
        """The same of another estimator; None where it says nothing."""
        said = self.row.estimates.get(name)
        return None if said is None or said.size < 0 else 100 * (said.size / self.row.measured - 1)

    @property
    def right(self) -> bool:
        """Whether it says rightly if the card has room."""
        return (self.found["peaks"] is None) == self.row.out_of_memory

    @property
    def caps(self) -> list[bool]:
        """The same for each limit that it was run under."""
        return [bool(self.found["caps"][str(cap)]) == refused for cap, refused in self.row.caps()]


def compared() -> list[Compared]:
    """Every row beside its prediction."""
    found = json.loads(PREDICTED.read_text())
    return [Compared(row, found[row.name]) for row in rows()]


def section() -> str:
    """The part of docs/accuracy.md on them."""
    everything = compared()
    fitted = [one for one in everything if not one.row.out_of_memory]
    better = [one for one in fitted if abs(one.error) < abs(one.others("xMem") or 0)]
    within = sum(abs(one.error) <= 3 for one in fitted)
    verdicts = sum(one.right for one in everything)
    caps = [right for one in everything for right in one.caps]
    about = f"""{len(everything)} runs that others measured ({DATA["source"]}). Measured is {DATA["measured"]}. So it is
reserved bytes and what libraries load. The runs were chosen by their names in the lists of those folders, before any
was predicted: one to three of each model and card, and those of VGG that earlier versions were furthest off in; none
was left out since. The loops are `benchmarks/accuracy/published_runs.py`; predicted on a machine without a GPU with
torch 2.13 as for 2.11, transformers 4.51.3, and cuDNN 9.8.0 asked, the oldest that answers without a card
(`benchmarks/accuracy/published.py`)."""
    return f"""{textwrap.fill(about, 118, break_long_words=False, break_on_hyphens=False)}

Error of reserved bytes, per cent: median / mean / worst of the {len(fitted)} runs that fitted.

{_summary(fitted)}

Within 3 %: {within} of {len(fitted)}; nearer than xMem in {len(better)}. Whether it fits the card is said rightly of
{verdicts} of {len(everything)}, and under the {len(caps)} limits that they tried {sum(caps)} times.

Language models have no convolutions, and come out as on our own card. They were fed lines of real text in an order
that is not known, which are taken here to reach 128 tokens in each of the four batches. A batch whose longest line is a
little shorter leaves holes that the next cannot use: with 120 tokens in the second batch the loop of distilgpt2 takes
3,456 MiB, which is what was measured, and 3,006 with 128 in all; it is the row that is 13 % off.

Convolutional nets depend on what cuDNN 9.1 chose for Ampere and Ada. What was tried to learn it:

- cuDNN 9.1 itself has no descriptions of cards (`CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR` came with 9.8). Asked without a
  handle it does propose configurations, but for a card without tensor cores: in 72 questions not one with that note,
  and none at all in 36 for bf16. It makes no plan without a handle, `cudnnCreate` and so every older function ends with
  `CUDNN_STATUS_NOT_INITIALIZED` where there is no driver.
- 9.10 chooses as 9.8 in all of 30 rows. 9.19 does not: its mean error over them is 12.7 %, theirs 8.5 %, where the
  card's own memory does not bound what a convolution may take.
- What else a description says (clocks, caches, memory, the driver's version, the name) changes none of 444 answers.
- Not the place of `zero_grad` (of eight rows tried one changes, and only without workspaces); not the room, which
  decides whether a workspace can be had: t5-base came to 11,896 of the RTX 3060's 12,037 MiB.
- Not chance: the same run four times in four processes gave the same bytes (MnasNet, batch 400; others twice).
- With no workspace for any convolution the median would be 2.6 %; for 1 x 1 kernels there is only what was seen on an
  H200, and asking 9.8 for them instead brings ResNets to 1.4 and 2.6 % and takes RegNets to 3.5 to 15 %.

Reserved bytes are 6 to 74 % above the requested ones in these rows, for large blocks leave large holes, and the
workspaces move them by up to a fifth; so they are exact only with the very workspaces of 9.1.

{_table(everything)}
"""


def _summary(fitted: Sequence[Compared]) -> str:
    kinds = {"all": fitted, "language models": [one for one in fitted if one.row.is_language],
             "convolutional nets": [one for one in fitted if not one.row.is_language]}  # fmt: skip
    lines = [("memgraph", *(_three([one.error for one in chosen]) for chosen in kinds.values()))]
    for name in ESTIMATORS:
        lines.append((name, *(_three([one.others(name) for one in chosen]) for chosen in kinds.values())))
    return tabulate(lines, ("estimate", *kinds), tablefmt="github", disable_numparse=True)


def _three(errors: Sequence[float | None]) -> str:
    sizes = [abs(error) for error in errors if error is not None]
    if not sizes:
        return ""
    return f"{statistics.median(sizes):.2f} / {statistics.mean(sizes):.2f} / {max(sizes):.1f} ({len(sizes)})"


def _table(everything: Sequence[Compared]) -> str:
    lines = []
    for one in everything:
        row, caps = one.row, one.caps
        said = ("agrees" if one.right else "differs") if row.out_of_memory else _off(one.error)
        others = [""] * 4 if row.out_of_memory else [_off(one.others(name)) for name in ESTIMATORS]
        real = "refused" if row.out_of_memory else f"{row.measured / 2**30:.2f}"
        right = f"{sum(caps)} of {len(caps)}" if caps else ""
        lines.append((row.card, row.model, row.optimizer, row.batch, real, said, *others, right))
    headers = ("card", "model", "optimizer", "batch", "measured, GiB", "memgraph", *ESTIMATORS, "caps")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _off(error: float | None) -> str:
    return "" if error is None else f"{error:+.2f} %"


def main() -> None:
    command, *rest = sys.argv[1:]
    if command != "predict":
        sys.exit(__doc__)
    predict_all(" ".join(rest))


if __name__ == "__main__":
    main()
