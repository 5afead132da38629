"""How a whole run grows with its sizes: from traces at a few points to a `Program`, proved at each of them.

A training step runs the same ops whatever its sizes, so the traces are aligned op by op, and each size becomes a
formula (`polynomial`). Where even the ops differ, or a size follows no formula, there is no program and the difference
is named.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memgraph.analyze.polynomial import Point, Polynomial, solve
from memgraph.analyze.program import Block, Irregular, Program, Requests, Run, Version, plan_of, requests_of, where_text
from memgraph.analyze.template import Template, fit_template
from memgraph.gpu import cublas
from memgraph.gpu.specs import GpuSpec
from memgraph.trace import Role, Trace


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
    plan = plan_of(run.calls[op], gpu, version)
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
