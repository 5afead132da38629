"""The lines of a backward, which has no frames of Python: those of the forward ops that it differentiates.

Autograd runs the nodes of a backward in the reverse order of their making (`sequence_nr`,
torch/csrc/autograd/engine.cpp), so the last call of `mm` in a forward belongs to the first `MmBackward0` after it.
Calls are told apart where an op's stack comes again: inside one call of a forward each allocation has its own. A node
may allocate at one several times, a gradient of each factor; how many times its allocations and the calls in the
forward tell. Workspaces begin no call: a library may ask for several. What the engine does with a node's results, to
sum them to their shape or to cast them, is of that node.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from memgraph.files.snapshot_phases import plain
from memgraph.files.stacks import Site
from memgraph.trace import Action, Events, Op, Phase
from memgraph.trace.rows import Buffers

_ALLOC, _REFUSED = int(Action.ALLOC), int(Action.OUT_OF_MEMORY)


def ops_of(
    buffers: Buffers, events: Events, sites: Sequence[Site], phases: Sequence[Phase]
) -> tuple[tuple[Op, ...], Buffers, Events]:
    """The ops of a run, with buffers and events that name them."""
    made = _Ops(sites)
    actions, named, ops, _, _ = events.columns
    makers = array("q", [-1]) * len(buffers)
    for number, phase in enumerate(phases):
        made.enter(number, phase, Counter(ops[phase.start : phase.stop]) if phase.name == "backward" else {})
        for place in range(phase.start, phase.stop):
            action = actions[place]
            if action == _ALLOC or (action == _REFUSED and ops[place] >= 0):
                ops[place] = op = made.op(ops[place])
                if action == _ALLOC:
                    makers[named[place]] = op
            else:
                ops[place] = -1
    return tuple(made.ops), dataclasses.replace(buffers, ops=makers, made={}), events


class _Ops:
    """Makes ops of sites, one for each of a phase."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self.ops: list[Op] = []
        self._known: dict[tuple[int, int, int], int] = {}
        self._forwards: defaultdict[str, list[int]] = defaultdict(list)
        self._calls = [site.node or f"{site.op} {site.source}" for site in sites]
        """What tells a call at each site from others."""
        self._alone = [site.phase == "backward" and not site.node for site in sites]
        """Whether it is the engine's own, at none of its nodes."""
        self._tensors = [site.kind == "tensor" for site in sites]
        self._call: tuple[str, int] = ("", -1)
        self._seen: dict[int, int] = {}
        self._each: dict[int, int] = {}
        self._phase, self._name, self._step = -1, "", -1

    def enter(self, number: int, phase: Phase, times: Mapping[int, int]) -> None:
        """The next phase; what a step's forward made is not differentiated by another's backward.

        Args:
            times: how often each site comes in a backward.
        """
        if phase.name == "forward" and phase.step != self._step:
            self._forwards.clear()
            self._step = phase.step
        self._phase, self._name = number, phase.name
        self._call, self._seen = ("", -1), {}
        self._each = {
            site: -(-count // len(made)) for site, count in times.items()
            if site >= 0 and (node := self._sites[site].node) and (made := self._forwards.get(_kind(node)))
        }  # fmt: skip

    def op(self, number: int) -> int:
        """The op of an allocation at a site; -1 if nothing is known of it."""
        if number < 0:
            return -1
        call, forward = self._call
        if self._alone[number]:
            return self._made(number, forward)
        times, key = self._seen.get(number, 0), self._calls[number]
        if key != call or (self._tensors[number] and times >= self._each.get(number, 1)):
            return self._begun(number, key)
        self._seen[number] = times + 1
        return self._made(number, forward)

    def _begun(self, number: int, key: str) -> int:
        """That of the first allocation of a call."""
        site = self._sites[number]
        forward = self._forward(site.node) if site.node else -1
        self._call, self._seen = (key, forward), {number: 1}
        found = self._made(number, forward)
        if self._name == "forward" and not site.node:
            self._forwards[plain(site.op)].append(found)
        return found

    def _forward(self, node: str) -> int:
        made = self._forwards.get(_kind(node))
        return made.pop() if made else -1

    def _made(self, number: int, forward: int) -> int:
        key = number, self._phase, forward
        known = self._known.get(key)
        if known is None:
            site = self._sites[number]
            source = site.source or (self.ops[forward].source if forward >= 0 else "")
            known = self._known[key] = len(self.ops)
            name = f"{site.op}.default" if site.op.startswith("aten.") else site.op
            self.ops.append(Op(name or "outside any function", self._phase, "", source, forward=forward))
        return known


def _kind(node: str) -> str:
    """`mm` of `MmBackward0`, as `plain` says it of ops."""
    return plain(node.partition("Backward")[0])
