"""A checkpoint plan: which modules to recompute in the backward, and how. A small JSON file that a person can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from memgraph.errors import MemgraphError, UsageError
from memgraph.trace_file import StrPath, write_file

VERSION = 1
"""Of the file format; a reader refuses a newer one."""

POLICIES = {
    "whole": "recompute everything",
    "attention": "keep the results of attention",
    "matmul": "keep the results of matrix products, convolutions and attention",
}
"""What is kept of a checkpointed region besides its inputs."""


class Region(NamedTuple):
    """Modules that are recomputed as one: called one after the other, each with what the one before it returned."""

    modules: tuple[str, ...]
    """Paths in the model, in the order of their calls; usually one."""
    policy: str = "whole"
    """One of `POLICIES`."""


class LossChunks(NamedTuple):
    """The loss in chunks of rows: logits are made, used and dropped a chunk at a time."""

    head: str
    """Path of the linear layer that makes the logits."""
    chunks: int


@dataclass(frozen=True)
class Plan:
    """What to checkpoint.

    Raises:
        UsageError: a module stands in two regions, or a policy is not known.
    """

    regions: tuple[Region, ...] = ()
    loss: LossChunks | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it was made for and what it promises. Plain JSON values, for people."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for region in self.regions:
            if region.policy not in POLICIES:
                raise UsageError(f"plan: no policy {region.policy!r}: use {', '.join(POLICIES)}")
            if not region.modules or seen & set(region.modules) or len(set(region.modules)) < len(region.modules):
                raise UsageError(f"plan: {' + '.join(region.modules) or 'a region'} is empty or listed twice")
            seen |= set(region.modules)
        if self.loss is not None and self.loss.chunks < 2:
            raise UsageError(f"plan: {self.loss.chunks} chunks of the loss save nothing: use at least 2")

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(_encode(self), indent=2) + "\n"


def save_plan(plan: Plan, path: StrPath, *, force: bool = False) -> None:
    """Write a plan.

    Raises:
        UsageError: the file exists and `force` is not given.
        MemgraphError: it cannot be written.
    """
    write_file(path, plan.to_json().encode(), force=force)


def load_plan(path: StrPath) -> Plan:
    """Read a plan.

    Raises:
        MemgraphError: there is no such file, or it is not a plan.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise MemgraphError(f"cannot read the plan {path}: {reason}; `memgraph checkpoint -o` writes one") from error
    return parse_plan(text, str(path))


def parse_plan(text: str, name: str = "the plan") -> Plan:
    """A plan from its JSON text; `name` is what errors call it.

    Raises:
        MemgraphError: it is not a plan, or of a newer version.
    """
    try:
        return _decode(json.loads(text), name)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MemgraphError(f"{name} is not a checkpoint plan: `memgraph checkpoint -o FILE` writes one") from error


def named_plan(checkpoint: str) -> Plan:
    """What `Options.checkpoint` names: a plan's file, or the JSON text of a plan itself.

    Raises:
        MemgraphError: it is not a plan.
    """
    return parse_plan(checkpoint) if checkpoint.startswith("{") else load_plan(checkpoint)


def _encode(plan: Plan) -> dict[str, Any]:
    data: dict[str, Any] = {"memgraph_plan": VERSION, "about": dict(plan.about)}
    for policy in POLICIES:
        regions = [region.modules for region in plan.regions if region.policy == policy]
        if regions:
            data[policy] = [modules[0] if len(modules) == 1 else list(modules) for modules in regions]
    if plan.loss is not None:
        data["loss"] = plan.loss._asdict()
    return data


def _decode(data: dict[str, Any], name: str) -> Plan:
    version = data["memgraph_plan"]
    if type(version) is not int or version > VERSION:
        raise MemgraphError(f"{name} was written by a newer memgraph (plan {version}): update memgraph")
    unknown = data.keys() - {"memgraph_plan", "about", "loss", *POLICIES}
    if unknown:
        raise MemgraphError(f"{name} has {', '.join(sorted(unknown))}, which this memgraph does not know")
    regions = [_region(item, policy) for policy in POLICIES for item in _list(data.get(policy, []))]
    return Plan(tuple(regions), _loss(data.get("loss")), dict(data.get("about", {})))


def _region(item: Any, policy: str) -> Region:
    modules = [item] if isinstance(item, str) else _list(item)
    if not all(isinstance(module, str) for module in modules):
        raise TypeError("a module is named by its path")
    return Region(tuple(modules), policy)


def _loss(data: Any) -> LossChunks | None:
    if data is None:
        return None
    if set(data) != {"head", "chunks"} or type(data["head"]) is not str or type(data["chunks"]) is not int:
        raise TypeError("the loss has a head and a number of chunks")
    return LossChunks(**data)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value
