"""A card of one's own, by a file: what `memgraph gpus --describe` prints on the machine that has it, or what
`nvidia-smi -q` prints there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memgraph.errors import DAMAGED, UsageError
from memgraph.gpu.spec import MIB, GpuSpec

Known = Callable[[str], GpuSpec | None]
"""A card of the catalogue by its name or title."""
_MOST = 1 << 20
"""Bytes of a description that is read; one has a few hundred, `nvidia-smi -q` some thousand a card."""
_NEEDED = ("title", "memory", "capability", "sms")


def is_file(name: str) -> bool:
    """Whether a card is named by a file."""
    return name.lower().endswith((".json", ".txt"))


def read(path: str, known: Known) -> GpuSpec:
    """The card that the file describes.

    Args:
        known: looks in the catalogue, for what the file does not say.

    Raises:
        UsageError: it is no such file, or what it says is no card.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST)
    except OSError as error:
        raise UsageError(f"the card in {path[:200]} cannot be read: {error.strerror}") from None
    if text.lstrip().startswith("{"):
        return _described(path, text, known)
    return _printed(path, text, known)


def describe(card: GpuSpec) -> str:
    """The file of a card, as `read` takes it."""
    return json.dumps({**dataclasses.asdict(card), "counted": [list(pair) for pair in card.counted]}, indent=2)


def _described(path: str, text: str, known: Known) -> GpuSpec:
    try:
        told = json.loads(text)
        missing = [name for name in _NEEDED if name not in told]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        return _from(path, told, known(str(told["title"])))
    except DAMAGED as error:
        raise UsageError(f"{path[:200]} does not describe a card: {str(error)[:120]}") from None


def _from(path: str, told: Mapping[str, Any], like: GpuSpec | None) -> GpuSpec:
    """Rates that the file does not have are those of the card of that name."""
    bandwidth, half, single = (
        _number(told.get(name, getattr(like, name, None)), name) for name in ("bandwidth", "half_rate", "float_rate")
    )
    major, minor = (_whole(part, "capability", 0) for part in told["capability"])
    counted = tuple((_whole(blocks, "counted"), _whole(count, "counted")) for blocks, count in told.get("counted", ()))
    return GpuSpec(
        path, str(told["title"])[:80], _whole(told["memory"], "memory"), (major, minor), _whole(told["sms"], "sms"),
        _whole(told.get("l2", like.l2 if like else 4 * MIB), "l2"), bandwidth, half, single,
        counted=counted,
    )  # fmt: skip


def _whole(value: Any, name: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value < 2**53:
        raise ValueError(f"{name} is {str(value)[:40]}, and should be a whole number")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e18:
        raise ValueError(f"{name} is {str(value)[:40]}, and should be a number a second")
    return float(value)


def _printed(path: str, text: str, known: Known) -> GpuSpec:
    """`nvidia-smi -q`: the first card's name, and its memory less what the driver keeps, which is what torch calls the
    total (on an H200 143,771 MiB less 616 are 143,155: torch says 143,156)."""
    title = re.search(r"Product Name\s*:\s*(.+)", text)
    memory = re.search(
        r"FB Memory Usage\s*\n\s*Total\s*:\s*(\d{1,9}) MiB\s*\n(?:\s*Reserved\s*:\s*(\d{1,9}) MiB)?", text
    )
    if title is None or memory is None:
        raise UsageError(f"{path[:200]} is neither a described card nor what `nvidia-smi -q` prints")
    card = known(title[1].strip())
    if card is None:
        raise UsageError(
            f"{path[:200]} names {title[1].strip()[:60]}, which is not in the catalogue: on that machine run "
            "`memgraph gpus --describe > my-card.json`"
        )
    size = (int(memory[1]) - int(memory[2] or 0)) * MIB
    if size <= 0:
        raise UsageError(f"{path[:200]} has a card whose driver keeps all of its memory")
    return dataclasses.replace(card, name=path, memory=size, from_nearest=False)
