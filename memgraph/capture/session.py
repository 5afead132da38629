"""`virtual_gpu`: ordinary training code in, a `Trace` out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import _disable_current_modes

from memgraph.capture.accumulate import References, run_two_gradients
from memgraph.capture.categorize import categorize
from memgraph.capture.collecting import Objects, paused
from memgraph.capture.compiling import Compiling
from memgraph.capture.facts import Facts
from memgraph.capture.joining import take_place, take_place_when_asked
from memgraph.capture.keeping import Keeping
from memgraph.capture.ledger import Ledger, Refusal
from memgraph.capture.operators import Kinds
from memgraph.capture.recorder import Recorder
from memgraph.capture.spawned import one_of_the_spawned_is_here
from memgraph.capture.updates import Updates
from memgraph.errors import TorchChanged, UsageError
from memgraph.gpu import nccl
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig, configured
from memgraph.gpu.cudnn.ask import asker
from memgraph.gpu.specs import GpuSpec, find
from memgraph.options import torch_release
from memgraph.trace import Buffer, Category, TensorSpec, Trace
from memgraph.trace.garbage import no_garbage_collection
from memgraph.virtual import cuda, patches
from memgraph.virtual.after_import import changed_when_imported
from memgraph.virtual.autocast import autocast_as_in
from memgraph.virtual.becoming import tensors_become_others
from memgraph.virtual.cuda_build import looks_built_for_cuda
from memgraph.virtual.current_stream import current_number, streams_exist
from memgraph.virtual.device import select_device, virtual_device
from memgraph.virtual.dispatch_rules import dispatch_rules_are_found_quickly
from memgraph.virtual.einsum import orders_are_said
from memgraph.virtual.engine_threads import (
    engine_threads_rest,
    ensure_engine_thread,
    outside_functorch,
    settle_engine_thread,
)
from memgraph.virtual.graphs import graphs_are_captured
from memgraph.virtual.legacy_types import legacy_types_are_there
from memgraph.virtual.ops import ctc, encoder, sparse
from memgraph.virtual.ops.attention import attention_as_on, backend_of
from memgraph.virtual.ops.dispatch import composites_are, cuda_kernels_exist
from memgraph.virtual.ops.formulas import COMPOSITES
from memgraph.virtual.ops.jagged import attention_kernels_of
from memgraph.virtual.ops.kernels import kernels
from memgraph.virtual.ops.recurrent import Recurrent
from memgraph.virtual.paged import paged_states
from memgraph.virtual.saving import tensors_are_saved
from memgraph.virtual.storages import storages_are_there
from memgraph.virtual.subclasses import subclasses_are_made
from memgraph.virtual.threads import threads_take_part
from memgraph.virtual.triton_kernels import triton_kernels_do_nothing
from memgraph.virtual.values.assumed import Assumptions
from memgraph.virtual.values.reading import tensors_are_read
from memgraph.world.calls import Calls
from memgraph.world.mail import Mail
from memgraph.world.place import Place

_NO_SPEC = TensorSpec((), "")


_TAKEN_TO_JOIN = (
    "the other ranks are taken to call the same collectives in the same order: memgraph run --ranks all runs them too, "
    "and says where one would wait for ever"
)


class VirtualGpu:
    """A CUDA device that is not there, as a context manager. See `memgraph.virtual_gpu`.

    Args:
        gpu: a name from the catalogue, `rtx3090`.
        memory: bytes that the allocator may take; default the card's memory less its CUDA context.
        alloc_conf: as the environment variable PYTORCH_CUDA_ALLOC_CONF, which is the default.
        settings: what is run, for the trace.
        refuse: called when an allocation does not fit; default is to go on and say so in the trace.
        fake_everywhere: large CPU tensors hold no values wherever they are made.
        torch: the release of the machine that will run it, `2.11`; default the one that is installed.
        place: which rank of which world it is; None where `torch.distributed` is left alone.
        mail: what takes small numbers to the other ranks of that world.
    """

    def __init__(
        self,
        gpu: str = "rtx3090",
        *,
        memory: int | None = None,
        alloc_conf: str | None = None,
        settings: Mapping[str, Any] | None = None,
        refuse: Refusal | None = None,
        fake_everywhere: bool = False,
        fraction: float = 1.0,
        torch: str | None = None,
        place: Place | None = None,
        mail: Mail | None = None,
    ) -> None:
        self.place, self.mail = place, mail
        self.calls: Calls | None = None
        """The collectives of the run, in a world."""
        if place is not None:
            import memgraph.world.joined  # noqa: F401  # torch scripts some of its code on import, before it is patched
        self.spec: GpuSpec = find(gpu)
        self.memory = memory if memory is not None else self.spec.memory - self.spec.context
        self.settings = dict(settings or {}) | ({} if place is None else {"world": place.world, "rank": place.rank})
        self._alloc_conf = alloc_conf if alloc_conf is not None else configured()
        config = AllocatorConfig.parse(self._alloc_conf)
        self.release = torch_release(torch)
        version = self.release or torch_version()
        self.saving = False
        """Whether what ran when a script was last refused memory was to be differentiated."""
        self.ledger = Ledger(Allocator(self.memory, config, torch=version, total=self.spec.memory), refuse)
        if alloc_conf is None:
            self.ledger.allocator.settings = self._settings
        self.kinds = Kinds(self.spec, version, fake_everywhere=fake_everywhere)
        self.assumptions = Assumptions(fraction)
        self.recorder = Recorder(self.ledger, self.kinds, self.assumptions)
        self.kinds.selected = lambda args: self.assumptions.put(args, self.recorder.sources.current())
        self.compiling = Compiling(self.spec, self.recorder, self.assumptions.state)
        self.keeping = Keeping(
            self.ledger, self.recorder.storages, self.recorder.paths, self.recorder.sources, self.recorder.ops,
            self.recorder.tags, self.recorder.collecting,
        )  # fmt: skip
        self.recorder.after_call = functools.partial(self.keeping.ended, "call")
        self.facts = Facts(self.recorder.sources)
        self.updates = Updates(self.recorder, self.facts, functools.partial(self.keeping.ended, "step"))
        self._stack = contextlib.ExitStack()
        self._entered = self._over = False

    def _settings(self) -> AllocatorConfig:
        """What the environment says once CUDA is initialised. Measured with torch 2.11 on an H200: what a script writes
        there after `import torch` counts, after `torch.cuda.init()` or the first tensor it does not."""
        self._alloc_conf = configured()
        return AllocatorConfig.parse(self._alloc_conf)

    def __enter__(self) -> Self:
        if self._entered:
            raise UsageError("this virtual GPU was entered before: make a new one for each `with` block")
        self._entered = True
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(looks_built_for_cuda(self.kinds.torch_version))
            stack.enter_context(virtual_device())
            stack.enter_context(engine_threads_rest())
            stack.enter_context(streams_exist(self.ledger.order, self.recorder.use, self._assume_here))
            self.ledger.current_stream = current_number()
            stack.enter_context(patches.tensors_behave())
            stack.enter_context(tensors_become_others())
            stack.enter_context(subclasses_are_made())
            stack.enter_context(tensors_are_read(self._assume_here))
            stack.enter_context(orders_are_said(self._assume_here))
            stack.enter_context(storages_are_there(self.recorder.storages))
            stack.enter_context(legacy_types_are_there())
            libraries = triton_kernels_do_nothing(self.spec, self._assume_here) | paged_states(self._assume_here)
            stack.enter_context(changed_when_imported(libraries))
            stack.enter_context(tensors_are_saved(self.recorder, self._assume_here))
            answers = cuda.answers(
                self.spec, self.ledger, self.ledger.empty_cache, self._devices(), self._frames_of
            )  # fmt: skip
            stack.enter_context(patches.cuda_answers(answers))
            stack.enter_context(graphs_are_captured(self.ledger))
            stack.enter_context(cuda_kernels_exist())
            stack.enter_context(dispatch_rules_are_found_quickly())
            self._take_the_gpus_paths(stack)
            library = asker()
            if library is not None:
                library.start()  # it loads while the model is made
            stack.enter_context(self.recorder.paths.following())
            stack.enter_context(self.updates.followed())
            stack.enter_context(patches.around_backwards(self._prepare_backward, settle_engine_thread))
            self._join_the_world(stack)
            self.recorder.entries = list(self.updates.entries)
            stack.enter_context(self.compiling.following())
            stack.enter_context(self.recorder.keeps_interrupts())
            stack.enter_context(self.recorder.collecting.following(self._objects()))
            stack.enter_context(threads_take_part(self.recorder, self.recorder.here))
            stack.enter_context(self.recorder)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over()
        self._stack.__exit__(kind, error, traceback)

    def over(self) -> None:
        """The program that ran is over, and what it names is still there."""
        if not self._over:
            self._over = True
            self.keeping.over()

    def mark(self, phase: str) -> None:
        """Say that a phase begins. Only the first `input`, where loading ends, cannot be told from the run itself."""
        if phase == "input" and self.recorder.stage.step == 0:
            self.recorder.stage.next_step()

    @property
    def trace(self) -> Trace:
        """What has happened so far."""
        with paused():
            trace = self._so_far()
            assumed = self.keeping.waiting.said(trace)
            return dataclasses.replace(trace, assumptions=(*trace.assumptions, *assumed)) if assumed else trace

    def _so_far(self) -> Trace:
        ledger, recorder = self.ledger, self.recorder
        buffers = tuple(
            Buffer(
                size, ledger.ops[index], ledger.roles[index], ledger.categories.get(index, Category.UNKNOWN),
                ledger.names.get(index, ""), *recorder.storages.specs.get(index, _NO_SPEC),
                ledger.streams.get(index, 0),
            )
            for index, size in enumerate(ledger.sizes)
        )  # fmt: skip
        return categorize(
            trace=Trace(
                origin="predicted", gpu=self.spec.name, memory=self.memory, torch=self._torch,
                settings=self._told(), ops=recorder.described_ops(), buffers=buffers, events=ledger.events(),
                phases=ledger.finished_phases(), assumptions=self._assumed(),
                unknown_ops=tuple(sorted(self.kinds.unknown)), compilation=self.compiling.compilation(),
                held=self.keeping.held(), rounds=tuple(recorder.stage.rounds), late=tuple(ledger.late),
                facts=self.facts.all(), callers=tuple(recorder.sources.callers.items()),
            ),
            sent=recorder.marks.sent, refilled=recorder.storages.refilled, saving=self.saving,
        )  # fmt: skip

    @property
    def graph(self) -> torch.fx.Graph:
        """The whole run as a `torch.fx.Graph`: a node per ATen call, in order."""
        from memgraph.capture.graph import build_graph

        return build_graph(self.recorder.calls, self.recorder.ops)

    def _prepare_backward(self) -> None:
        """What only a backward needs, and after which a forked process cannot run one of its own."""
        with outside_functorch():
            ensure_engine_thread()
            self.recorder.accumulation.sole = self._sole_references()

    def _sole_references(self) -> References:
        """Run the smallest case through a recorder of its own and read the counts: they depend on torch's version.

        Raises:
            TorchChanged: the engine did not add the two gradients the way torch 2.11 to 2.15 do.
        """
        trial = self._another_recorder()
        with _disable_current_modes(), trial, torch.enable_grad(), torch.inference_mode(False):
            run_two_gradients()
        if len(trial.accumulation.seen) != 1:
            raise TorchChanged(
                f"torch {torch.__version__}'s autograd engine accumulates gradients in a way not seen before"
            )
        return trial.accumulation.seen[0]

    def _objects(self) -> Objects:
        trial = self._another_recorder()
        with _disable_current_modes(), trial, no_garbage_collection():
            return trial.collecting.try_out(lambda: torch.empty(64, device="cuda"))

    def _another_recorder(self) -> Recorder:
        return Recorder(Ledger(Allocator(2**40)), Kinds(self.spec, self.kinds.torch_version), Assumptions())

    def _told(self) -> dict[str, Any]:
        """What is run; where blocks waited for other streams also how the allocator is set, for whoever asks what would
        be if they did not."""
        waited = {"alloc_conf": self._alloc_conf} if self._alloc_conf and self.ledger.waited else {}
        return {**self.settings, **waited}

    def _assume_here(self, text: str) -> None:
        source = self.recorder.sources.current()
        self.assumptions.state(f"{text} at {source}" if source else text)

    def _assumed(self) -> tuple[str, ...]:
        return (*self.assumptions.stated, *self._estimates(), *self._elsewhere(), *self._communicators())

    def _communicators(self) -> list[str]:
        groups = {} if self.calls is None else self.calls.groups
        used = [group for group in groups.values() if len(group.ranks) > 1]
        if not used:
            return []
        alone = self.mail is None or not self.mail.compared
        return [nccl.stated(len(used)), *([_TAKEN_TO_JOIN] if alone else [])]

    @property
    def _torch(self) -> str:
        installed = self.release in (None, torch_version())
        return torch.__version__ if installed or self.release is None else ".".join(map(str, self.release))

    def _elsewhere(self) -> list[str]:
        if self.release in (None, torch_version()):
            return []
        compiled = self.compiling.compilation()
        return [
            f"it is as on torch {self._torch}: its allocator, and what its libraries take; where torch {self._torch} "
            f"calls other ops than {torch.__version__}, which is installed here, they are the installed one's",
            *([_COMPILED_BY.format(torch.__version__, self._torch)] if compiled else []),
        ]

    def _estimates(self) -> list[str]:
        if not self.kinds.convolves:
            return self._unmeasured()
        library = asker()
        timed = [_timed(library is not None)] if torch.backends.cudnn.benchmark else []
        if library is None:
            return [*self._unmeasured(), *timed]
        some = any(of == "cuDNN" for of, _ in self.kinds.estimated)
        return [_asked(library.version, some), *timed, *self._unmeasured(but="cuDNN")]

    def _unmeasured(self, but: str = "") -> list[str]:
        return [
            f"the workspace that {library} takes for {name} on this GPU was not measured and is an estimate"
            for library, name in sorted(self.kinds.estimated)
            if library != but
        ]

    def _frames_of(self, number: int) -> list[dict[str, Any]]:
        """Where an op comes from, as a call stack: the op, then the module."""
        if number < 0:
            return []
        op = self.recorder.ops[number]
        file, _, line = op.source.rpartition(":")
        inner = {"filename": file, "line": int(line) if line.isdecimal() else 0, "name": op.name}
        return [inner, {"filename": "module", "line": 0, "name": op.module}] if op.module else [inner]

    def _take_the_gpus_paths(self, stack: contextlib.ExitStack) -> None:
        """Ops that do something else on this GPU than on this build of torch."""
        recurrent, state = Recurrent(self.spec), self.assumptions.state
        attention = attention_as_on(self.spec, self.kinds.torch_version, state, self.facts.computed_by_steps)
        by_value = sparse.kernels(self.assumptions.select)
        self.kinds.kernels |= {**kernels(state), **by_value, **ctc.KERNELS, **recurrent.kernels()}
        self.kinds.composites |= {
            torch.ops.aten.record_stream.default: self.recorder.record_stream,
            **attention,
            **COMPOSITES,
            **ctc.composites(state),
            **encoder.composites(functools.partial(backend_of, self.spec)),
            **recurrent.composites(),
        }
        stack.enter_context(autocast_as_in(self.kinds.torch_version))
        stack.enter_context(composites_are(self.kinds.composites))
        stack.enter_context(attention_kernels_of(self.spec))

    def _devices(self) -> cuda.Devices:
        return cuda.Devices(1 if self.place is None else self.place.per_node, select_device)

    def _join_the_world(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(one_of_the_spawned_is_here(self._assume_here))
        if self.place is None:
            take_place_when_asked(self, stack.enter_context, lambda context: self._stack.enter_context(context))
        else:
            take_place(self, self.place, stack.enter_context)

    def _close(self) -> None:
        self.recorder.close()
        self.ledger.close()


def _timed(followed: bool) -> str:
    """What `torch.backends.cudnn.benchmark` does, and whether its trials are followed."""
    trials = (
        "its trials are followed: the first call of each takes the largest workspace of all kernels of which cuDNN "
        "says what they take, or which were measured, and gives it and all that is cached back"
        if followed
        else "its trials are left out: the first call of each takes the largest workspace of all kernels, some GiB in "
        "fp32, and gives it and all that is cached back"
    )
    return (
        "torch.backends.cudnn.benchmark is on, which times cuDNN's kernels for each convolution on the card and takes "
        f"the fastest, for which the first that cuDNN proposes stands here; {trials}"
    )


def _asked(version: int, some_estimated: bool) -> str:
    """91900 is cuDNN 9.19.0."""
    name = f"{version // 10_000}.{version // 100 % 100}.{version % 100}"
    rest = ", but for 1 x 1 and depthwise kernels, which are an estimate" if some_estimated else ""
    return f"the workspaces of convolutions are what cuDNN {name}, found here, takes on this GPU{rest}"


_COMPILED_BY = (
    "what torch.compile makes is {}'s: torch {} fuses, keeps and times other kernels, and a compiled step's peak may "
    "be another by a tenth; predict it with that torch installed"
)


def torch_version() -> tuple[int, int]:
    """(major, minor) of the torch that runs."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)
