"""One configuration at many sizes and on several cards: traced where it must be, computed from laws elsewhere.

A `Study` traces each point at most once. The first questions about sizes cost a few traces, from which it solves a
`Program` and proves it; every further point is arithmetic.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memgraph.analyze import fit as search
from memgraph.analyze.attribution import Consumer
from memgraph.analyze.fit import Cell, Limit
from memgraph.analyze.growth import prove, solve_program
from memgraph.analyze.laws import Growth, Law, growth, laws_for
from memgraph.analyze.program import Irregular, Program, Requests, Run
from memgraph.analyze.regions import Region, Sizes, around, regions_of
from memgraph.analyze.replay_fast import replay
from memgraph.errors import UsageError
from memgraph.gpu.allocator.config import AllocatorConfig, configured
from memgraph.gpu.specs import GpuSpec, find
from memgraph.mesh import mesh_of
from memgraph.options import Options, torch_release
from memgraph.study.run import Progress
from memgraph.study.workers import Workers
from memgraph.trace import Trace, Usage

_MANY = 6
"""Lengths from which on one sample's law costs less than its traces."""


class Study:
    """See the module's text.

    Args:
        options: what to run; batch, length and card are given anew with each question.
        progress: told before each trace.
        workers: trace beside this process; the caller closes them. Default is to trace here, one after the other.
    """

    def __init__(self, options: Options, progress: Progress | None = None, workers: Workers | None = None) -> None:
        self.options = options
        self.progress = progress
        self.workers = workers or Workers(0)
        self.traced = 0
        self._runs: dict[tuple[Sizes, str, int | None], Run] = {}
        self._programs: dict[Region, Program | Irregular] = {}
        self.config = AllocatorConfig.parse(_configured(options))

    def run(self, sizes: Sizes, gpu: str, memory: int | None = None) -> Run:
        """A fresh trace, unless this very one was made before.

        Args:
            memory: bytes that the allocator may take; default as the options say.
        """
        key = (sizes, gpu, memory)
        if key not in self._runs:
            self._runs[key] = self._trace(sizes, gpu, memory)
        return self._runs[key]

    def ahead(self, sizes: Iterable[Sizes], gpu: str, memory: int | None = None) -> None:
        """Begin with what `run` will be asked for, if there is somebody to do it."""
        for one in sizes:
            if (one, gpu, memory) not in self._runs:
                self.workers.ask((one, gpu, memory), self._options(one, gpu, memory))

    def _options(self, sizes: Sizes, gpu: str, memory: int | None) -> Options:
        return dataclasses.replace(
            self.options, batch=sizes.batch, seq=sizes.seq, gpu=gpu, memory=memory or self.options.memory
        )

    def _trace(self, sizes: Sizes, gpu: str, memory: int | None) -> Run:
        if self.progress is not None:
            length = f", seq {sizes.seq}" if sizes.seq is not None else ""
            self.progress(f"tracing batch {sizes.batch}{length} on {gpu}", self.traced, None)
        trace, calls = self.workers.take((sizes, gpu, memory), self._options(sizes, gpu, memory))
        self.traced += 1
        return Run(trace, calls, sizes.point)

    # Laws.

    def program(self, region: Region) -> Program:
        """The run at every size of a region.

        Raises:
            Irregular: there is no such law; the message says where it breaks.
        """
        found = self._programs.get(region)
        if found is None:
            found = self._programs[region] = self._solve(region)
        if isinstance(found, Irregular):
            raise found
        return found

    def _solve(self, region: Region) -> Program | Irregular:
        try:
            return self._borrowed(region) or self._own(region)
        except Irregular as error:
            return error

    def _own(self, region: Region) -> Program:
        self.ahead(region.samples(), region.gpu)
        runs = [self._case(region, sizes) for sizes in region.samples()]
        return solve_program(runs, find(region.gpu), self.version)

    def _borrowed(self, region: Region) -> Program | None:
        """Another card's program, if a trace on this one is a case of it: cards differ in scratch, which rules give."""
        for other, program in self._programs.items():
            if other[1:] == region[1:] and isinstance(program, Program):
                try:
                    prove(program, self._case(region, region.samples()[1]), find(region.gpu), self.version)
                    return program
                except Irregular:
                    continue
        return None

    def _case(self, region: Region, sizes: Sizes) -> Run:
        return self.run(sizes, region.gpu)._replace(point=region.point(sizes))

    @property
    def version(self) -> tuple[int, int]:
        """(major, minor) of the torch that runs, or will."""
        from memgraph.capture.session import torch_version

        return torch_release(self.options.torch) or torch_version()

    def neighbours(self, trace: Trace) -> list[Trace]:
        """Traces at three other sizes, for `memgraph.analyze.laws`: lengths from half of the trace's own up to it.

        One sample stays one, for two run other ops. Sizes that the model refuses are passed over.
        """
        others = around(Sizes(trace.settings["batch"], trace.settings.get("seq")))
        self.ahead(others[:3], trace.gpu, trace.memory)
        found: list[Trace] = []
        for other in others:
            with contextlib.suppress(Exception):  # the model is anybody's, and may refuse a size in any way
                found.append(self.run(other, trace.gpu, trace.memory).trace)
            if len(found) == 3:
                break
        return found

    # Fit.

    def available(self, gpu: str, headroom: Headroom) -> int:
        """Bytes that the allocator may take on a card, less what is to stay free."""
        spec = find(gpu)
        memory = self.options.memory or spec.memory - spec.context
        return max(1, memory - headroom.of(memory))

    def limits(
        self, gpus: Sequence[str], seqs: Sequence[int | None], headroom: Headroom | None = None, *, confirm: bool = True
    ) -> list[Limit]:
        """The largest batch for each card and length.

        Args:
            headroom: what must stay free.
            confirm: trace each answer, and one sample more; the answer is then the traces', not the laws'.
        """
        regions = {(gpu, seq): region for gpu in gpus for region, group in regions_of(gpu, seqs) for seq in group}
        asked = [
            _Asked(self, regions[gpu, seq], seq, self.available(gpu, headroom or Headroom()))
            for gpu in gpus for seq in seqs
        ]  # fmt: skip
        found = [one.largest() for one in asked]
        for one, batch in zip(asked, found, strict=True):
            if confirm and batch != search.MOST:
                self.ahead([Sizes(batch or 1, one.seq), Sizes(batch + 1, one.seq)], one.region.gpu, one.available)
        return [self._limit(one, batch, confirm) for one, batch in zip(asked, found, strict=True)]

    def _limit(self, asked: _Asked, batch: int, confirm: bool) -> Limit:
        region, seq, available = asked.region, asked.seq, asked.available
        if not confirm or batch == search.MOST:
            return Limit(region.gpu, seq, batch, available, None, None, "", False, asked.note)
        while batch > 0 and not asked.fits_in_trace(batch):
            batch -= 1
        while asked.fits_in_trace(batch + 1):
            batch += 1
        beyond = asked.trace(batch + 1)
        peak = _usage(asked.trace(batch)) if batch else None
        return Limit(region.gpu, seq, batch, available, peak, _usage(beyond), search.refusal(beyond), True, asked.note)

    def grid(
        self, gpus: Sequence[str], seqs: Sequence[int | None], batches: Sequence[int], headroom: Headroom | None = None
    ) -> list[Cell]:
        """Every batch and length on every card."""
        rows = [(region, seq) for gpu in gpus for region, group in regions_of(gpu, seqs) for seq in group]
        cells: list[Cell] = []
        for region, seq in rows:
            available = self.available(region.gpu, headroom or Headroom())
            asked = _Asked(self, region, seq, available, many=len(seqs) >= _MANY)
            if self.progress is not None:
                self.progress(f"batches at seq {seq} on {region.gpu}", len(cells), len(rows) * len(batches))
            cells += search.row(region.gpu, seq, batches, asked.requested, asked.fits, available)
        return cells


class Headroom(NamedTuple):
    """What is to stay free: bytes, and a share of the memory."""

    bytes: int = 0
    share: float = 0.0

    def of(self, memory: int) -> int:
        """Bytes of a card that PyTorch may use so much of."""
        return self.bytes + int(self.share * memory)


class _Asked:
    """The questions of one search, answered by laws where there are some, else by traces."""

    def __init__(self, study: Study, region: Region, seq: int | None, available: int, *, many: bool = False) -> None:
        self.many = many
        """Whether a law for one sample is worth its traces."""
        self.study = study
        self.region = region
        self.seq = seq
        self.available = available
        self.spec: GpuSpec = find(region.gpu)
        self.note = ""
        self._requests: tuple[int, Requests] | None = None

    def largest(self) -> int:
        """The largest batch that fits, by the laws where there are some."""
        batch = search.largest(self.requested, self.fits, self.available, least=2)
        return batch if batch > 1 else int(self.fits(1))

    def requested(self, batch: int) -> int:
        """Highest bytes requested."""
        requests = self._law(batch)
        return requests.requested if requests is not None else self.trace(batch).peak.requested

    def fits(self, batch: int) -> bool:
        """Whether the allocator gets it in."""
        requests = self._law(batch)
        if requests is None:
            return self.fits_in_trace(batch)
        return replay(
            requests.events, requests.sizes, self.available, self.study.config,
            torch=self.study.version, total=self.spec.memory,
        ).fits  # fmt: skip

    def fits_in_trace(self, batch: int) -> bool:
        """The same, of a fresh trace."""
        return self.trace(batch).fits

    def trace(self, batch: int) -> Trace:
        """A fresh trace on a card that has what is available."""
        return self.study.run(Sizes(batch, self.seq), self.region.gpu, self.available).trace

    def _law(self, batch: int) -> Requests | None:
        """None where there is no law: for one sample, and where a region has none."""
        if self._requests is not None and self._requests[0] == batch:
            return self._requests[1]
        if batch == 1 and not (self.many and not self.region.one_length):
            return None
        region = self.region._replace(alone=batch == 1)
        try:
            program = self.study.program(region)
            requests = program.requests(region.point(Sizes(batch, self.seq)), self.spec, self.study.version)
        except Irregular as error:
            self.note = f"no law: {error}"
            return None
        self._requests = batch, requests
        return requests


def _usage(trace: Trace) -> Usage:
    return Usage(*trace.peak[:3])


def options_of(trace: Trace) -> Options:
    """The options that a trace was made with, as far as it says."""
    settings = trace.settings
    known = {name: value for name, value in settings.items() if name in Options().settings()}
    if "mesh" in settings:
        shards = {name: settings[name] for name in ("fsdp", "reshard", "reduce_dtype", "rank")}
        known["mesh"] = mesh_of(settings["mesh"], **shards)
    return Options(**known, gpu=trace.gpu, memory=trace.memory)


def _configured(options: Options) -> str:
    if options.alloc_conf is not None:
        return options.alloc_conf
    return configured()


def with_neighbours(
    options: Options, progress: Progress | None = None, workers: Workers | None = None
) -> tuple[Trace, list[Trace]]:
    """The trace of the options and three around it, all at once if there are workers."""
    from memgraph.models.registry import resolve
    from memgraph.study.run import default_gpu

    study = Study(options, progress, workers)
    gpu = find(options.gpu or default_gpu())
    sizes = Sizes(
        options.batch, options.seq if options.seq is not None else resolve(options.model, options.task).default_seq
    )
    memory = options.memory or gpu.memory - gpu.context
    study.ahead([sizes, *around(sizes)[:3]], gpu.name, memory)
    trace = study.run(sizes, gpu.name, memory).trace
    return trace, study.neighbours(trace)


def laws_of(trace: Trace, progress: Progress | None = None) -> dict[Consumer, Law]:
    """The law of every consumer at a trace's peak, from three more traces around it.

    Raises:
        UsageError: the trace does not say what was run, or was measured.
    """
    return laws_for(trace, neighbours_of(trace, progress))


def growth_of(trace: Trace, progress: Progress | None = None) -> tuple[Growth, ...]:
    """A trace's peak by degree, from three more traces around it. Raises as `laws_of`."""
    return growth(trace, neighbours_of(trace, progress))


def neighbours_of(trace: Trace, progress: Progress | None = None, workers: Workers | None = None) -> list[Trace]:
    """Three traces around one. Raises as `laws_of`."""
    if trace.origin != "predicted" or not isinstance(trace.settings.get("batch"), int):
        raise UsageError("laws need a predicted trace that says its batch: run `memgraph analyze` with options")
    return Study(options_of(trace), progress, workers).neighbours(trace)
