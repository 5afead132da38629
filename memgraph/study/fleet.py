"""How many cards a step needs: the meshes of so many cards on which it fits, each traced at its heaviest rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memgraph.analyze.binding import Bound, bound
from memgraph.errors import DoesNotFit, MemgraphError, UsageError
from memgraph.gpu.specs import find
from memgraph.mesh import Mesh
from memgraph.models.shapes import Shape, shape_of
from memgraph.options import Options
from memgraph.study.apart import Outcome, outcomes_apart
from memgraph.study.mesh_ranks import on_one_gpu, on_rank
from memgraph.study.run import Progress, default_gpu
from memgraph.study.workers import cores
from memgraph.trace import Peak, Trace
from memgraph.units import format_bytes

NODE = 8
"""Cards that NVLink joins; tensor parallel stays among them."""
SHORTEST = 8192
"""Tokens that context parallel leaves a rank at least: fewer are exchanged longer than they are attended to."""
MOST = 4
"""Meshes of one number of cards that are enough."""
_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MOMENTS = {"adamw": 2, "adam": 2, "sgd-momentum": 1}
"""Tensors of a parameter's own type and size that an optimizer keeps for it."""
_ROOTS = ("adamw", "adam")
"""Optimizers whose foreach form takes the roots of all second moments at once (`exp_avg_sq_sqrt` of
`_multi_tensor_adam`, torch/optim/adam.py): another tensor for each parameter, beside those kept."""
_FOREACH = ("default", "foreach")


class Fits(NamedTuple):
    """A mesh on which the step fits."""

    gpus: int
    mesh: Mesh
    """With the rank that takes the most."""
    checkpoint: str
    samples: int
    """In one step, of all cards."""
    peak: Peak
    available: int
    """Bytes that PyTorch may take of a card."""
    bound: Bound


class Refused(NamedTuple):
    """One on which it does not."""

    gpus: int
    mesh: Mesh
    why: str
    traced: bool
    """Whether it was run, and not only its states counted."""


class Answer(NamedTuple):
    """For each number of cards what fits, the simplest mesh first, and what does not."""

    fits: tuple[Fits, ...]
    refused: tuple[Refused, ...]
    untried: int
    """Meshes that were left when enough fitted."""


def meshes_that_fit(
    options: Options, counts: Sequence[int], checkpoints: Sequence[str] = ("none",), progress: Progress | None = None,
    most: int = MOST,
) -> Answer:  # fmt: skip
    """Look through the meshes of so many cards, the simplest first.

    A mesh is left out untraced only if its states cannot fit: in the optimizer's step, when parameters, gradients, its
    state and what it takes for all of them at once are there, the heaviest rank has at least its share.

    Args:
        options: the step; `batch` is what each copy of the model is given at a time.
        counts: numbers of cards.
        checkpoints: what to try, in this order, until it fits: `none`, `blocks`.
        most: meshes of one number of cards; when so many fit the others are left.

    Raises:
        UsageError: no such model, or a number that is none.
        MemgraphError: the step fails for another reason than memory.
    """
    if options.mesh is not None:
        raise UsageError("--gpus looks for a mesh: leave --mesh and --world out")
    search = _Search(options, shape_of(options.model, options.task, options.set), progress)
    answers = [search.among(list(sensible(count, search.shape, options.seq)), checkpoints, most) for count in counts]
    return Answer(
        tuple(row for answer in answers for row in answer.fits),
        tuple(row for answer in answers for row in answer.refused),
        sum(answer.untried for answer in answers),
    )


def sensible(gpus: int, shape: Shape | None, seq: int | None) -> Iterator[Mesh]:
    """The meshes worth a trace, the simplest first: DDP, FSDP, then tensor parallel inside a node, a pipeline, both
    with all of a node's cards in tensor parallel, and context parallel for long sequences.

    Raises:
        UsageError: so many cards do not make one.
    """
    if gpus < 1:
        raise UsageError(f"--gpus {gpus}: at least 1")
    yield _mesh(gpus, fsdp=False)
    if gpus == 1:
        return
    yield _mesh(gpus)
    if shape is None:
        return
    tps = [tp for tp in _parts(gpus, NODE) if shape.divided and not any(count % tp for count in shape.divided)]
    pps = [pp for pp in _parts(gpus, gpus) if shape.layers and shape.layers % pp == 0]
    cps = [cp for cp in _parts(gpus, gpus) if shape.sequence and seq is not None and seq // cp >= SHORTEST]
    yield from (_mesh(gpus, tp=tp) for tp in tps)
    yield from (_mesh(gpus, pp=pp) for pp in pps if pp <= NODE)
    yield from (_mesh(gpus, tp=tps[-1], pp=pp) for pp in pps if tps and gpus % (tps[-1] * pp) == 0)
    yield from (_mesh(gpus, cp=cp) for cp in cps)
    yield from (_mesh(gpus, tp=tps[-1], cp=cp) for cp in cps if tps and gpus % (tps[-1] * cp) == 0)


def _parts(gpus: int, most: int) -> list[int]:
    """Powers of two above 1 that divide so many cards."""
    return [1 << power for power in range(1, most.bit_length()) if gpus % (1 << power) == 0 and 1 << power <= most]


def _mesh(gpus: int, tp: int = 1, pp: int = 1, cp: int = 1, *, fsdp: bool = True) -> Mesh:
    dp = gpus // (tp * pp * cp)
    return Mesh(dp=dp, tp=tp, pp=pp, cp=cp, fsdp="blocks" if fsdp and dp * cp > 1 else "none")


def heaviest(mesh: Mesh) -> tuple[int, ...]:
    """The ranks among which the heaviest is: the first of the first stage, which has most micro-batches under way,
    and of the last, which has the logits. A stage between has fewer of the one and none of the other; later ranks of a
    stage have the smaller shards."""
    return tuple(dict.fromkeys((mesh.first_of(0), mesh.first_of(mesh.pp - 1))))


class _Search:
    """One step, on one kind of card."""

    def __init__(self, options: Options, shape: Shape | None, progress: Progress | None) -> None:
        card = find(options.gpu or default_gpu())
        self.options, self.shape, self.progress = options, shape, progress
        self.available = options.memory or card.memory - card.context

    def among(self, meshes: Sequence[Mesh], checkpoints: Sequence[str], most: int) -> Answer:
        """Those that fit, of one number of cards."""
        found: dict[Mesh, Fits | Refused] = {mesh: row for mesh in meshes if (row := self.by_states(mesh)) is not None}
        todo = [mesh for mesh in meshes if mesh not in found]
        while todo and sum(isinstance(row, Fits) for row in found.values()) < most:
            some, todo = todo[: cores()], todo[cores() :]
            for checkpoint in checkpoints:
                found |= self.traced([mesh for mesh in some if _worth_it(found.get(mesh))], checkpoint)
        rows = [found[mesh] for mesh in meshes if mesh in found]
        fits = tuple(row for row in rows if isinstance(row, Fits))
        return Answer(fits, tuple(row for row in rows if isinstance(row, Refused)), len(meshes) - len(rows))

    def by_states(self, mesh: Mesh) -> Refused | None:
        """What the states alone say: nothing of a model that is not known before it runs."""
        options = self.options
        if self.shape is None or options.freeze:
            return None
        ranks = mesh.world if mesh.fsdp != "none" else mesh.tp * mesh.pp
        each = self.shape.parameters * _SIZES[options.dtype] // ranks
        size = each * (2 + _MOMENTS.get(options.optimizer, 0))
        if size > self.available:
            return Refused(mesh.world, mesh, f"states alone take {format_bytes(size)} of a card", traced=False)
        stepping = size + each * (options.optimizer in _ROOTS and options.optimizer_impl in _FOREACH)
        if stepping <= self.available:
            return None
        why = f"the optimizer's step alone takes {format_bytes(stepping)} of a card"
        return Refused(mesh.world, mesh, why, traced=False)

    def traced(self, meshes: Sequence[Mesh], checkpoint: str) -> dict[Mesh, Fits | Refused]:
        """The same of whole steps, each rank until it is refused something."""
        wanted = [(mesh, rank) for mesh in meshes for rank in heaviest(mesh)]
        options = [self.on(mesh, rank, checkpoint) for mesh, rank in wanted]
        outcomes = dict(outcomes_apart(options, self.progress, until_refused=True))
        ran: dict[Mesh, list[tuple[int, Outcome]]] = {mesh: [] for mesh in meshes}
        for number, (mesh, rank) in enumerate(wanted):
            ran[mesh].append((rank, outcomes[number]))
        return {mesh: self.judged(mesh, checkpoint, each) for mesh, each in ran.items()}

    def on(self, mesh: Mesh, rank: int, checkpoint: str) -> Options:
        """The step as one rank has it; a pipeline has a micro-batch for each stage."""
        own = dataclasses.replace(self.options, checkpoint=checkpoint)
        one = mesh.world == 1
        return on_one_gpu(own) if one else on_rank(dataclasses.replace(own, mesh=mesh), mesh, rank)

    def judged(self, mesh: Mesh, checkpoint: str, ran: Iterable[tuple[int, Outcome]]) -> Fits | Refused:
        """The heaviest rank's, if all fit.

        Raises:
            MemgraphError: a rank failed for another reason.
        """
        traces: list[tuple[int, Trace]] = []
        for rank, outcome in ran:
            if isinstance(outcome, DoesNotFit | UsageError):  # the latter: sizes that it does not divide
                return Refused(mesh.world, mesh, str(outcome), traced=isinstance(outcome, DoesNotFit))
            if isinstance(outcome, MemgraphError):
                raise outcome
            traces.append((rank, outcome))
        rank, trace = max(traces, key=lambda one: one[1].peak.reserved)
        words = self.shape.words if self.shape is not None else None
        samples = mesh.copies * trace.settings["batch"] * trace.settings["accumulate"]
        there = dataclasses.replace(mesh, rank=rank)
        return Fits(mesh.world, there, checkpoint, samples, trace.peak, self.available, bound(trace, words))


def _worth_it(row: Fits | Refused | None) -> bool:
    """Whether a trace may say something else."""
    return row is None or (isinstance(row, Refused) and row.traced)
