"""How a whole run grows with its sizes: one list of allocations for every batch and length.

A training step runs the same ops whatever its sizes, so traces at a few points are aligned op by op, and each size
becomes a formula (`polynomial`). What an op takes inside, such as the scratch of a reduction, follows no formula: it
depends on the GPU's thread blocks. There the rule that predicted it is asked again, with the sizes that the formulas
give. Where even the ops differ, or a size follows no formula, there is no program and the difference is named.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memgraph.analyze.polynomial import Point, Polynomial, solve
from memgraph.analyze.template import Template, fit_template
from memgraph.errors import MemgraphError
from memgraph.gpu import cublas, workspace
from memgraph.gpu.call import Call, OnHost, Output, Release, Temporary
from memgraph.gpu.specs import GpuSpec
from memgraph.trace import Action, Role, Trace

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
            _plan_of(template, tuple([values[place] for place in places]), gpu, version) if template.ruled else None
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


# What an op does inside.


Plan = tuple[tuple[int, ...], tuple[int, ...]] | None
"""Codes of what an op does, and the sizes of its temporaries. A code c ≥ 0 is output c allocated; ~(2k) temporary k
allocated; ~(2k + 1) temporary k freed. None: the outputs in order and nothing else."""


@functools.lru_cache(maxsize=16384)
def _plan_of(template: Template, numbers: tuple[int, ...], gpu: GpuSpec, version: Version) -> Plan:
    """Most calls of the vision tower do not depend on the length, and so on: half of them were asked before."""
    return _plan(template.filled(numbers), gpu, version)


def _plan(call: Call, gpu: GpuSpec, version: Version) -> Plan:
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


# From runs to a program.


class _Skeleton(NamedTuple):
    """A run without sizes and temporaries."""

    blocks: tuple[Block, ...]
    buffers: list[int]
    """Index in the trace, by buffer."""
    libraries: dict[int, str]


def solve_program(runs: Sequence[Run], gpu: GpuSpec, version: Version) -> Program:
    """The program of which all runs are cases; it is proved at each of them. They must be of the same GPU.

    Raises:
        Irregular: they are not cases of one program; the message names the first op where they part.
    """
    for run in runs[1:]:
        _check_same_ops(runs[0], run)
    skeletons = [_skeleton(run, gpu, version) for run in runs]
    for run, skeleton in zip(runs[1:], skeletons[1:], strict=True):
        _check_same_lives(run, skeletons[0], skeleton)
    points = [run.point for run in runs]
    sizes = _solve_sizes(runs, skeletons, points)
    templates, template_of = _solve_templates(runs, points)
    laws = {law: place for place, law in enumerate(dict.fromkeys((*sizes, *(n for t in templates for n in t.numbers))))}
    program = Program(
        base=runs[0].trace, points=tuple(points),
        blocks=tuple(block._replace(template=template_of.get(block.op, -1)) for block in skeletons[0].blocks),
        laws=tuple(laws), size_of=tuple(laws[law] for law in sizes), templates=templates,
        numbers_of=tuple(tuple(laws[number] for number in template.numbers) for template in templates),
        libraries=skeletons[0].libraries,
    )  # fmt: skip
    for run in runs:
        prove(program, run, gpu, version)
    return program


def prove(program: Program, run: Run, gpu: GpuSpec, version: Version) -> None:
    """Check that a run is a case of the program: every allocation and every free, in order, to the byte.

    Raises:
        Irregular: it is not; the message names the first op where they part.
    """
    mine, theirs = program.requests(run.point, gpu, version), requests_of(run.trace)
    for index, (own, other) in enumerate(itertools.zip_longest(_moves(mine), _moves(theirs))):
        if own != other:
            op = _op_text(run.trace, theirs.ops[min(index, len(theirs.ops) - 1)])
            raise Irregular(f"at {where_text(run.point)}, {op} does not allocate what the laws say")


def requests_of(trace: Trace) -> Requests:
    """A trace's own requests."""
    actions, buffers, ops = trace.events.columns[:3]
    rows = [
        (buffer if action == Action.ALLOC else ~buffer, op)
        for action, buffer, op in zip(actions, buffers, ops, strict=True) if action <= Action.FREE
    ]  # fmt: skip
    return Requests([event for event, _ in rows], [buffer.size for buffer in trace.buffers], [op for _, op in rows])


def where_text(point: Point) -> str:
    """`B=8, S=512`."""
    return ", ".join(f"{symbol}={size}" for symbol, size in point.items())


def _moves(requests: Requests) -> Iterator[tuple[int, int]]:
    """Each event with its buffer numbered by birth, and its bytes: the same for the same run.

    Tensors that die together are in order of birth: autocast's cache of weights drops them in the order of a hash of
    their addresses, another in every process, and it makes no difference to the allocator."""
    births: dict[int, int] = {}
    dead: list[int] = []
    for event in (*requests.events, len(requests.sizes)):
        if event < 0:
            dead.append(births[~event])
            continue
        yield from ((~number, 0) for number in sorted(dead))
        dead.clear()
        if event < len(requests.sizes):
            births[event] = len(births)
            yield births[event], requests.sizes[event]


def _skeleton(run: Run, gpu: GpuSpec, version: Version) -> _Skeleton:
    roles = [buffer.role for buffer in run.trace.buffers]
    births: defaultdict[int, list[int]] = defaultdict(list)
    kept: defaultdict[int, list[int]] = defaultdict(list)
    deaths: defaultdict[int, list[int]] = defaultdict(list)
    numbers: dict[int, int] = {}
    requests = requests_of(run.trace)
    for event, op in zip(requests.events, requests.ops, strict=True):
        index = event if event >= 0 else ~event
        if roles[index] is Role.TEMPORARY:
            continue
        number = numbers.setdefault(index, len(numbers))
        if event < 0:
            deaths[op].append(~number)
        else:
            (kept if roles[index] is Role.LIBRARY else births)[op].append(number)
    ops = sorted({*births, *kept, *deaths, *run.calls})
    blocks = tuple(
        Block(op, _outputs(run, op, births[op], gpu, version), tuple(kept[op]), tuple(sorted(deaths[op])), -1)
        for op in ops
    )
    libraries: dict[int, str] = {}
    for op, workspaces in kept.items():
        libraries.update(zip(workspaces, _names(run, op, len(workspaces), gpu, version), strict=True))
    return _Skeleton(blocks, list(numbers), libraries)


def _outputs(run: Run, op: int, births: Sequence[int], gpu: GpuSpec, version: Version) -> tuple[int, ...]:
    """An op's buffers in the order in which it returns them; the rule may allocate them in another."""
    if op not in run.calls:
        return tuple(births)
    plan = _plan(run.calls[op], gpu, version)
    if plan is None:
        return tuple(births)
    order = [code for code in plan[0] if code >= 0]
    if len(order) != len(births):
        raise Irregular(f"{_op_text(run.trace, op)} has {len(births)} outputs where its rule says {len(order)}")
    placed = dict(zip(order, births, strict=True))
    return tuple(placed.get(index, -1) for index in range(len(run.calls[op].outputs)))


def _names(run: Run, op: int, count: int, gpu: GpuSpec, version: Version) -> list[str]:
    """Which library keeps each workspace that an op was the first to need: the last of several, if not all."""
    needs = cublas.workspaces(run.calls[op], gpu.capability, version) if op in run.calls else []
    if len(needs) < count:
        raise Irregular(f"{_op_text(run.trace, op)} keeps a workspace that no rule explains")
    return [name for name, _ in needs[len(needs) - count :]]


def _check_same_ops(first: Run, other: Run) -> None:
    for index, (a, b) in enumerate(itertools.zip_longest(first.trace.ops, other.trace.ops)):
        if a is None or b is None or a.name != b.name or a.module != b.module:
            one = _op_text(first.trace, index) if a is not None else "the end of the run"
            two = _op_text(other.trace, index) if b is not None else "the end of the run"
            raise Irregular(f"where {where_text(first.point)} has {one}, {where_text(other.point)} has {two}")


def _check_same_lives(other: Run, a: _Skeleton, b: _Skeleton) -> None:
    for one, two in itertools.zip_longest(a.blocks, b.blocks):
        if one != two:
            op = _op_text(other.trace, (two or one).op)
            raise Irregular(f"at {where_text(other.point)}, {op} keeps or frees other tensors than elsewhere")


def _solve_sizes(runs: Sequence[Run], skeletons: Sequence[_Skeleton], points: Sequence[Point]) -> list[Polynomial]:
    sizes = []
    pairs = zip(runs, skeletons, strict=True)
    columns = [[run.trace.buffers[index].size for index in skeleton.buffers] for run, skeleton in pairs]
    for number, values in enumerate(zip(*columns, strict=True)):
        law = solve(values, points)
        if law is None:
            buffer = runs[0].trace.buffers[skeletons[0].buffers[number]]
            op = _op_text(runs[0].trace, buffer.op)
            raise Irregular(f"a result of {op} follows no formula: {', '.join(map(str, values))} bytes")
        sizes.append(law)
    return sizes


def _solve_templates(runs: Sequence[Run], points: Sequence[Point]) -> tuple[tuple[Template, ...], dict[int, int]]:
    """The recorder keeps one call for all ops that look alike, so they are told apart by identity."""
    places: dict[tuple[int, ...], int] = {}
    templates: list[Template] = []
    template_of = {}
    for op in runs[0].calls:
        calls = [run.calls[op] for run in runs]
        key = tuple(map(id, calls))
        if key not in places:
            template = fit_template(calls, points)
            if template is None:
                raise Irregular(f"the arguments of {_op_text(runs[0].trace, op)} follow no formula")
            places[key] = len(templates)
            templates.append(template)
        template_of[op] = places[key]
    return tuple(templates), template_of


def _op_text(trace: Trace, op: int) -> str:
    if not 0 <= op < len(trace.ops):
        return "something outside any op"
    found = trace.ops[op]
    name = found.name.removeprefix("aten.").rpartition(".")[0] or found.name
    return f"{name} in {found.module}" if found.module else name
