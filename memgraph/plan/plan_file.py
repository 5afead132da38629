"""`Plan`: what to recompute. Plain data, and the small file that holds it."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memgraph.errors import DAMAGED, UsageError, unknown_name
from memgraph.small_file import read_text
from memgraph.trace.output_file import write_file

SCHEMA = 2
"""Version of the file; a reader refuses a newer one. Since 2 a region may keep results one by one."""

_LINEARS = ("mm", "addmm", "convolution")
_PRODUCTS = (*_LINEARS, "bmm", "baddbmm")
_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
KEPT_OPS: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "linears": _LINEARS,
    "matmuls": _PRODUCTS,
    "attention": _ATTENTION,
    "matmuls+attention": (*_PRODUCTS, *_ATTENTION),
}
"""What a region keeps besides its inputs: results of these ATen ops; everything else is computed again."""
_NO_PLACE = frozenset[int]()
_PLACES = re.compile(r"\w+( \d+)+(, \w+( \d+)+)*")


@dataclass(frozen=True)
class Region:
    """Modules that run one after another and are recomputed together."""

    modules: tuple[str, ...]
    """Their paths in the model, in the order of the forward."""
    keep: str = "nothing"
    """One of `KEPT_OPS`; or results one by one, by op and how many of its kind ran before it in the region's forward:
    `mm 0 3, gelu 0`."""


@dataclass(frozen=True)
class Plan:
    """Which regions of a model are checkpointed."""

    regions: tuple[Region, ...] = ()
    loss_chunks: int = 1
    """Pieces that the loss is computed in, for a model with such a field."""
    made_for: Mapping[str, Any] = field(default_factory=dict)
    """The step that it was made for, in plain values."""
    promised: Mapping[str, Any] = field(default_factory=dict)
    """Peaks in bytes, and the recompute as a share of the step."""
    use_cache: bool = True
    """Whether a model of transformers keeps keys and values, as its configuration has it."""

    @property
    def text(self) -> str:
        """The file's content: JSON that a person can read, a line a region."""
        regions = [json.dumps({"modules": list(region.modules), "keep": region.keep}) for region in self.regions]
        inner = ",".join(f"\n    {region}" for region in regions)
        parts = [
            f'"schema": {SCHEMA}', '"kind": "checkpoint plan"', f'"loss_chunks": {self.loss_chunks}',
            *([] if self.use_cache else ['"use_cache": false']),
            f'"regions": [{inner}\n  ]' if inner else '"regions": []',
            f'"made_for": {json.dumps(dict(self.made_for))}', f'"promised": {json.dumps(dict(self.promised))}',
        ]  # fmt: skip
        return "{\n  " + ",\n  ".join(parts) + "\n}\n"

    @property
    def bare(self) -> Plan:
        """The same without what it was made for."""
        return Plan(self.regions, self.loss_chunks, use_cache=self.use_cache)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write it. Refuses to overwrite without `force`."""
        write_file(Path(path), self.text.encode(), force=force)


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """A plan from its file.

    Raises:
        UsageError: there is no such file, or it holds no plan.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"the plan {path} cannot be read: {error}") from error
    return parse_plan(text, str(path))


def parse_plan(text: str, name: str = "the plan") -> Plan:
    """A plan from its text.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(text)
        if found["kind"] != "checkpoint plan":
            raise KeyError("kind")
        if found["schema"] > SCHEMA:
            raise UsageError(f"{name} was written by a newer memgraph (schema {found['schema']}): update")
        regions = tuple(Region(_paths(region["modules"]), _kept(region["keep"])) for region in found["regions"])
        return Plan(
            regions, int(found.get("loss_chunks", 1)), dict(found.get("made_for", {})),
            dict(found.get("promised", {})), bool(found.get("use_cache", True)),
        )  # fmt: skip
    except DAMAGED as error:
        raise UsageError(f"{name} is no checkpoint plan: write one with `memgraph checkpoint -o plan.json`") from error


def _paths(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not found or not all(isinstance(path, str) for path in found):
        raise TypeError("modules")
    return tuple(found)


def _kept(name: str) -> str:
    if name not in KEPT_OPS and not _PLACES.fullmatch(name):
        raise unknown_name("policy", name, KEPT_OPS)
    return name


def keeps(keep: str, op: str, place: int) -> bool:
    """Whether a region keeps the result of an op.

    Args:
        keep: a `Region.keep`.
        op: ATen's name, `mm`.
        place: how many of its kind ran before it in the region's forward.
    """
    return op in KEPT_OPS[keep] if keep in KEPT_OPS else place in kept_places(keep).get(op, _NO_PLACE)


@functools.cache
def kept_places(keep: str) -> Mapping[str, frozenset[int]]:
    """What a `Region.keep` that names results one by one keeps: places by op."""
    parts = [part.split() for part in keep.split(", ")]
    return {op: frozenset(map(int, places)) for op, *places in parts}


def keep_places(results: Iterable[tuple[str, int]]) -> str:
    """The `Region.keep` for these results, by op and place; `nothing` for none."""
    places: dict[str, list[int]] = {}
    for op, place in sorted(results):
        places.setdefault(op, []).append(place)
    return ", ".join(f"{op} {' '.join(map(str, found))}" for op, found in places.items()) or "nothing"
