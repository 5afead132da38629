"""A run as one list of allocations for every batch and length: each size a formula (`polynomial`).

What an op takes inside, such as the scratch of a reduction, follows no formula: it depends on the GPU's thread blocks.
There the rule that predicted it is asked again, with the sizes that the formulas give. `growth` makes programs from
traced runs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memgraph.analyze.polynomial import Point, Polynomial
from memgraph.analyze.template import Template
from memgraph.errors import MemgraphError
from memgraph.gpu import cublas, workspace
from memgraph.gpu.call import Call, OnHost, Output, Release, Temporary
from memgraph.gpu.specs import GpuSpec
from memgraph.trace import Action, Trace

Version = tuple[int, int]
Calls = Mapping[int, Call]
"""What the workspace rules were asked, by the op's number."""


class Irregular(MemgraphError):
    """Runs of different sizes do not follow one law; the message says where they part."""


class Run(NamedTuple):
    """A traced run, and what is needed to see its temporaries at other sizes."""

    trace: Trace
    calls: Calls
    point: Point


class Block(NamedTuple):
    """What one op does to memory. Buffers are numbered over the run, temporaries left out."""

    op: int
    outputs: tuple[int, ...]
    """Its new storages, as the op returns them; -1 for one in host memory."""
    libraries: tuple[int, ...]
    """Workspaces that a library keeps from here on."""
    deaths: tuple[int, ...]
    """`~b` for each buffer `b` freed while or after it ran, before the next op allocates."""
    template: int
    """Its place among the templates, -1 if nothing but its outputs is ever allocated."""


class Requests(NamedTuple):
    """The run's allocations at one point."""

    events: list[int]
    """Buffer `b` is allocated, or freed where `~b` stands."""
    sizes: list[int]
    """Requested bytes, by buffer."""
    ops: list[int]
    """The op of each event; empty if it was not asked for."""

    @property
    def requested(self) -> int:
        """The highest bytes alive."""
        return max(self.curve(), default=0)

    def curve(self) -> Iterator[int]:
        """Bytes alive after each event."""
        signed = [*self.sizes, *(-size for size in reversed(self.sizes))]  # index ~b finds what b's free takes
        return itertools.accumulate(map(signed.__getitem__, self.events))


@dataclass(frozen=True)
class Program:
    """The run at any size for which its formulas hold: sizes like those it was made from. See the module's text."""

    base: Trace
    points: tuple[Point, ...]
    """Where it was traced."""
    blocks: tuple[Block, ...]
    laws: tuple[Polynomial, ...]
    """Every formula once, of bytes and of the numbers in calls."""
    size_of: tuple[int, ...]
    """The place among the laws of its bytes, by buffer."""
    templates: tuple[Template, ...]
    numbers_of: tuple[tuple[int, ...], ...]
    """The places among the laws of a template's numbers."""
    libraries: Mapping[int, str]
    """Which library keeps a buffer, for those that one keeps."""

    def requests(self, point: Point, gpu: GpuSpec, version: Version, *, ops: bool = False) -> Requests:
        """The run at a point on a GPU.

        Raises:
            Irregular: a formula gives no whole number of bytes, or an op other outputs than it had.
        """
        try:
            values = [law.at(point) for law in self.laws]
        except ValueError as error:
            raise Irregular(str(error)) from error
        sizes = [values[place] for place in self.size_of]
        if min(sizes, default=1) <= 0:
            raise Irregular(f"a tensor is empty at {where_text(point)}")
        for buffer, library in self.libraries.items():
            sizes[buffer] = _library_size(library, gpu)
        plans = [
            _plan_at(template, tuple([values[place] for place in places]), gpu, version) if template.ruled else None
            for template, places in zip(self.templates, self.numbers_of, strict=True)
        ]
        return _unroll(self.blocks, plans, sizes, ops=True) if ops else _unroll(self._chunks, plans, sizes)

    @functools.cached_property
    def _chunks(self) -> list[Block]:
        """The blocks, those between two that a rule decides made one: a loop of a tenth of the length."""
        chunks: list[Block] = []
        for block in self.blocks:
            if chunks and (block.template < 0 or not self.templates[block.template].ruled):
                moves = (*chunks[-1].deaths, *block.outputs, *block.libraries, *block.deaths)
                chunks[-1] = chunks[-1]._replace(deaths=moves)
            else:
                chunks.append(block)
        return chunks

    def law_of(self, buffer: int) -> Polynomial:
        """How a buffer's bytes grow."""
        return self.laws[self.size_of[buffer]]


def _library_size(library: str, gpu: GpuSpec) -> int:
    """Library workspaces depend on the GPU, and on no size."""
    size = {"cublas": cublas.cublas_workspace_bytes, "cublaslt": cublas.cublaslt_workspace_bytes}[library]
    return size(gpu.capability)


def requests_of(trace: Trace) -> Requests:
    """A trace's own requests.

    Raises:
        Irregular: they are on several streams, of which laws know nothing.
    """
    if trace.waits or any(buffer.stream for buffer in trace.buffers):
        raise Irregular("the run uses several streams")
    actions, buffers, ops = trace.events.columns[:3]
    rows = [
        (buffer if action == Action.ALLOC else ~buffer, op)
        for action, buffer, op in zip(actions, buffers, ops, strict=True) if action <= Action.FREE
    ]  # fmt: skip
    return Requests([event for event, _ in rows], [buffer.size for buffer in trace.buffers], [op for _, op in rows])


def where_text(point: Point) -> str:
    """`B=8, S=512`."""
    return ", ".join(f"{symbol}={size}" for symbol, size in point.items())


# What an op does inside.


Plan = tuple[tuple[int, ...], tuple[int, ...]] | None
"""Codes of what an op does, and the sizes of its temporaries. A code c ≥ 0 is output c allocated; ~(2k) temporary k
allocated; ~(2k + 1) temporary k freed. None: the outputs in order and nothing else."""


@functools.lru_cache(maxsize=16384)
def _plan_at(template: Template, numbers: tuple[int, ...], gpu: GpuSpec, version: Version) -> Plan:
    """Most calls of the vision tower do not depend on the length, and so on: half of them were asked before."""
    return plan_of(template.filled(numbers), gpu, version)


def plan_of(call: Call, gpu: GpuSpec, version: Version) -> Plan:
    """As the recorder follows a rule's steps: outputs that are not named come first, what is not released is freed at
    the end, the last first, and nothing is asked for no bytes."""
    steps = workspace.steps(call, gpu, version) or ()
    named = {step.index for step in steps if isinstance(step, (Output, OnHost))}
    codes = [index for index in range(len(call.outputs)) if index not in named]
    temporaries: list[int] = []
    for step in steps:
        if isinstance(step, Output) and step.index < len(call.outputs):
            codes.append(step.index)
        elif isinstance(step, Temporary):
            codes.append(~(2 * len(temporaries)))
            temporaries.append(step.size)
        elif isinstance(step, Release):
            codes.append(~(2 * step.index + 1))
    codes += [~(2 * k + 1) for k in reversed(range(len(temporaries))) if ~(2 * k + 1) not in codes]
    codes = [code for code in codes if code >= 0 or temporaries[~code >> 1]]
    plain = not temporaries and codes == list(range(len(call.outputs)))
    return None if plain else (tuple(codes), tuple(temporaries))


def _unroll(blocks: Sequence[Block], plans: Sequence[Plan], sizes: list[int], *, ops: bool = False) -> Requests:
    """One loop for the whole run: a search asks for hundreds of them."""
    events: list[int] = []
    ran: list[int] = []
    for op, outputs, libraries, deaths, template in blocks:
        plan = plans[template] if template >= 0 else None
        if plan is None:
            events += outputs
        else:
            first = len(sizes)
            sizes += plan[1]
            for code in plan[0]:
                if code >= 0:
                    events.append(outputs[code])
                else:
                    temporary = first + (~code >> 1)
                    events.append(~temporary if ~code & 1 else temporary)
        events += libraries
        events += deaths
        if ops:
            ran += [op] * (len(events) - len(ran))
    return Requests(events, sizes, ran)
