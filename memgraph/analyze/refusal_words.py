"""What an out-of-memory message says: its numbers, the causes that they show, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memgraph.analyze.refusals_elsewhere import CAUSES, STEPS
from memgraph.files.refusal_text import RefusalText
from memgraph.gpu.specs import GpuSpec, all_gpus
from memgraph.units import MIB, format_bytes

_MUCH = 0.1
"""Share of the card from which on something is worth naming."""
_SMALL = 0.02
_NONE_HAS = 2**50
"""Bytes that no card has."""


class Explained(NamedTuple):
    """A message in words."""

    numbers: tuple[tuple[str, int], ...]
    """What each number is, and bytes."""
    causes: tuple[str, ...]
    steps: tuple[str, ...]
    """What to try or to record next, the first first."""


def explain_refusal(said: RefusalText) -> Explained:
    """Say what the message means."""
    return Explained(tuple(_numbers(said)), tuple(_causes(said)), tuple(_steps(said)))


def outside(said: RefusalText) -> int | None:
    """What this process uses besides PyTorch's allocator: the CUDA context, libraries."""
    if said.in_use is None or said.reserved is None:
        return None
    return max(0, said.in_use - said.reserved)


def others(said: RefusalText) -> int | None:
    """What the card's other processes use, with the contexts where the message does not tell them apart."""
    if said.processes:
        return sum(size for _, size in said.processes)
    used = said.in_use if said.in_use is not None else said.reserved
    if said.total is None or said.free is None or used is None:
        return None
    return max(0, said.total - said.free - used)


def _numbers(said: RefusalText) -> Iterator[tuple[str, int]]:
    rows = (
        ("asked for, by the tensor or workspace that failed", said.asked),
        ("free on the card then", said.free),
        ("short of", None if said.asked is None or said.free is None else said.asked - said.free),
        ("the card", said.total),
        ("allocated: in tensors", said.allocated),
        ("of that in pools of CUDA graphs", said.pools),
        ("reserved by PyTorch and in no tensor", said.unused),
        ("a limit that was set", said.allowed),
        ("this process besides PyTorch's allocator: the CUDA context, libraries", outside(said)),
        ("other processes" if said.in_use is not None else "other processes, and the CUDA contexts", others(said)),
        ("other allocations", said.other),
    )
    yield from ((name, size) for name, size in rows if size is not None and (size > 0 or name.startswith("free")))


def _fragmented(said: RefusalText) -> bool:
    """Whether what is reserved and in no tensor would have served, in one piece and with what was free on the card."""
    if not said.unused or said.asked is None:
        return False
    free = said.free or 0
    return said.unused >= said.asked or free < said.asked <= free + said.unused


def _causes(said: RefusalText) -> Iterator[str]:
    total = said.total or 0
    if said.messages > 1:
        yield f"{said.messages} such messages are in the text, of several processes or attempts: this is the last"
    if said.kind in CAUSES:
        yield CAUSES[said.kind]
        return
    if said.allocated and total and said.allocated > total:
        yield ("more is allocated than the card has: its driver puts the rest into the host's memory, as on Windows, "
               "which is slow")  # fmt: skip
    if said.asked is not None and said.asked >= (total or _NONE_HAS):
        yield "one tensor is larger than the card: look at its shape (a broadcast, a one-hot, scores of length²)"
    if _fragmented(said):
        yield ("what was free inside PyTorch's reserve was no piece large enough: fragments, or the pool for requests "
               "of another size")  # fmt: skip
    rest = others(said)
    if rest and total and rest >= _MUCH * total:
        yield f"other processes hold {format_bytes(rest)} of the card"
    if said.allowed is not None:
        yield f"a limit of {format_bytes(said.allowed)} was set: set_per_process_memory_fraction, or a setting"
    if said.asked is not None and said.free is not None and said.free >= said.asked and said.allowed is None:
        yield "as much was free as was asked: its segment is larger than the tensor, or the driver refused"
    if (
        said.asked is not None
        and said.allocated
        and total
        and said.asked <= _SMALL * total
        and said.allocated > total / 2
    ):
        yield ("the request was small: it is not what fills the card, but the last of many. Either all of a step, or "
               "something that grows from step to step")  # fmt: skip


def _steps(said: RefusalText) -> Iterator[str]:
    if said.kind in STEPS:
        yield from STEPS[said.kind]
        return
    if _fragmented(said) and said.kind in ("cuda", "hip"):
        setting = f"{said.setting or 'PYTORCH_CUDA_ALLOC_CONF'}=expandable_segments:True"
        since = " (from torch 2.1 on; before, max_split_size_mb:128)" if said.old else ""
        yield f"{setting}, in the environment before Python starts{since}"
    rest = others(said)
    if rest and said.total and rest >= _MUCH * said.total:
        yield "nvidia-smi, and end what else runs there"
    card = likely_card(said) if said.kind == "cuda" else None
    if said.kind != "cuda":
        yield "memgraph knows NVIDIA's cards: give one of like memory; tensors are the same there, workspaces are not"
    gpu = f"--gpu {card.name}" if card else "--gpu CARD"
    yield f"memgraph run {gpu} train.py: without a GPU, what is alive, what grows, what to change"
    yield f"memgraph advise {gpu} train.py: what would make it fit, each tried"
    if said.kind == "mps":
        return
    yield ("torch.cuda.memory._record_memory_history(), and on the error _dump_snapshot('oom.pickle'); then memgraph "
           "analyze oom.pickle")  # fmt: skip


def likely_card(said: RefusalText) -> GpuSpec | None:
    """The card of the catalogue whose memory is nearest, if one is within a fiftieth; the plainest name of several."""
    if said.total is None:
        return None
    total = said.total
    near = min(all_gpus(), key=lambda card: (round(abs(card.memory - total) / total, 3), len(card.name)))
    return near if abs(near.memory - total) <= max(total // 50, MIB) else None
