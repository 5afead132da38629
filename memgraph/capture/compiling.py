"""What `torch.compile` makes of a run: it follows the compiler, and says where each buffer of its wrappers comes
from."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import Node
from torch.utils._python_dispatch import _disable_current_modes

from memgraph.capture.generated import Origin, frames_of, module_of, origins_of
from memgraph.capture.provenance import ModulePaths, Place
from memgraph.capture.recorder import Recorder
from memgraph.capture.storages import Storages
from memgraph.gpu.allocator.rounding import SMALL_BUFFER, allocation_size
from memgraph.gpu.cublas import MATRIX_OPS, cublas_workspace_bytes
from memgraph.gpu.specs import GpuSpec
from memgraph.trace import Action, Compilation, Saved
from memgraph.virtual.inductor.stand_in import compiles_without_a_card
from memgraph.virtual.patches import replaced

_DEEPEST = 24
"""Frames between an op's dispatch and the wrapper that called it: the dispatcher's and the recorder's own."""


_SWITCH = "TORCH_COMPILE_DISABLE"
"""What torch reads when it is imported (`disable` of torch/_dynamo/config.py), which is before the script sets it."""
_TRIAL = "timing.trial.kernel"
"""Ops that are only timed."""
_NOWHERE = Place("", "", "")


class Run(NamedTuple):
    """One execution of a wrapper: events `start` ≤ t < `stop`."""

    graph: int
    start: int
    stop: int


class Compiling:
    """Follows `torch.compile` on a virtual GPU; a `Watcher`. It opens when something is compiled, and costs nothing
    otherwise.

    Args:
        gpu: the card.
        recorder: of the run.
        state: told what is assumed.
    """

    def __init__(self, gpu: GpuSpec, recorder: Recorder, state: Callable[[str], None]) -> None:
        self._gpu = gpu
        self._recorder = recorder
        self.state = state
        self._stack: contextlib.ExitStack | None = None
        self._places: dict[str, dict[int, Place]] = {}
        self._breaks: dict[str, int] = {}
        self._saved: Counter[Saved] = Counter()
        self._recomputed: Counter[str] = Counter()
        self._graphs = 0
        self._runs: list[Run] = []
        self._trial = False
        self._paused = 0
        self._copied: dict[object, int] = {}

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow whatever is compiled while open."""
        compile_ = torch.compile

        def compile_and_follow(*args: Any, **kwargs: Any) -> Any:
            if os.environ.get(_SWITCH) == "1":
                return compile_(*args, **{**kwargs, "disable": True})
            self._open()
            return compile_(*args, **kwargs)

        with contextlib.ExitStack() as stack:
            stack.enter_context(replaced(torch, "compile", compile_and_follow))
            stack.enter_context(self._compiled_before())
            stack.callback(self._close)  # what was opened last is closed first
            yield

    @contextlib.contextmanager
    def _compiled_before(self) -> Iterator[None]:
        """Functions that were given to `torch.compile` before there was a virtual GPU are traced when they are first
        called on it."""
        frames = sys.modules.get("torch._dynamo.convert_frame")
        if frames is None:
            yield
            return
        trace = frames._compile

        def opened(*args: Any, **kwargs: Any) -> Any:
            if self._stack is not None:
                return trace(*args, **kwargs)
            self._open()
            return frames._compile(*args, **kwargs)

        with replaced(frames, "_compile", opened):
            yield

    def _open(self) -> None:
        if self._stack is None:
            self._stack = contextlib.ExitStack()
            with contextlib.ExitStack() as stack:
                stack.enter_context(compiles_without_a_card(self._gpu, self))
                self._recorder.describing.place = self.place
                self._stack = stack.pop_all()

    def _close(self) -> None:
        self._recorder.describing.place = None
        if self._stack is not None:
            self._stack.close()

    # What the compiler tells: see `Watcher`.

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The recorder and the hooks that follow modules are away; FakeTensor is torch's own again."""
        self._paused += 1
        try:
            with self._recorder.paths.suspended(), _disable_current_modes(), _fake_tensors_are_torchs():
                yield
        finally:
            self._paused -= 1

    def recording(self) -> contextlib.AbstractContextManager[Any]:
        """The recorder is back."""
        return self._recorder

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """Ops are those of a trial."""
        self._trial = True
        try:
            yield
        finally:
            self._trial = False

    def own_code(self) -> Sequence[CodeType]:
        """Entries into the recorder, the session and the ops that are ours."""
        kinds = self._recorder.operators
        functions: list[Any] = [
            Recorder.__torch_dispatch__, Recorder.dispatch, Storages._died, ModulePaths._enter, ModulePaths._leave,
            *self._recorder.entries, *kinds.composites.values(), *kinds.kernels.values(),
        ]  # fmt: skip
        return [function.__code__ for function in functions if isinstance(function, FunctionType)]

    def constant(self, tensor: torch.Tensor) -> None:
        """A folded constant takes memory on the card while the compiler holds it."""
        self._recorder.bear(tensor)

    def captured(self, key: object, copied: int) -> None:
        """A CUDA graph keeps what its inputs are copied to, and what it allocates, for good."""
        self._copied[key] = max(self._copied.get(key, 0), copied)

    def entered(self, active: bool) -> None:
        """Compiled code is called, or left. It has guards on the hooks of all modules, so ours are away meanwhile; its
        call is a model's."""
        if self._paused:
            return
        self._recorder.paths.follow(not active)
        outside = torch._C._current_autograd_node() is None and not self._recorder.paths.modules.stack
        if active and outside:
            self._recorder.stage.model_called()

    def traced(self, code: CodeType, local: dict[str, object]) -> None:
        """Modules among the arguments get their paths, if they have none yet."""
        for value in local.values():
            if isinstance(value, nn.Module) and not self._recorder.paths.knows(value):
                self._recorder.marks.model(value)

    def broke(self, reason: Any) -> None:
        """Why a graph ended before the function did."""
        if reason.graph_break:
            self._note_break(reason.reason, [(frame.filename, frame.lineno) for frame in reason.user_stack][::-1])

    def failed(self, error: Exception, code: CodeType) -> None:
        """The function runs eagerly: because it cannot be compiled anywhere, or not here."""
        from torch._dynamo import exc

        where = self._recorder.sources.shown([(code.co_filename, code.co_firstlineno)])
        if isinstance(error, exc.Unsupported):
            self._note_break(str(error), _user_frames(error) or [(code.co_filename, code.co_firstlineno)])
        elif isinstance(error, exc.BackendCompilerFailed | exc.InternalTorchDynamoError) or not _is_dynamos(error):
            reason = getattr(error, "inner_exception", error)
            text = f"{type(reason).__name__}: {_first_line(reason)}"
            self.state(f"torch.compile failed on {code.co_name} at {where}, which runs eagerly: {text}")

    def partitioned(self, forward: torch.fx.GraphModule, backward: torch.fx.GraphModule, outputs: int) -> None:
        """What the forward keeps for the backward, and what the backward computes again."""
        results = next(iter(forward.graph.find_nodes(op="output"))).args[0]
        kept = [_looked_at(node) for node in results[outputs:] if isinstance(node, Node)]  # type: ignore[index, union-attr]
        for node in dict.fromkeys(kept):
            if node.op != "placeholder" and isinstance(_value(node), torch.Tensor):
                self._saved[self._saved_row(node)] += 1
        names = {node.name for node in forward.graph.nodes if node.op == "call_function"}
        again = [node for node in backward.graph.nodes if node.op == "call_function" and node.name in names]
        self._recomputed.update(_short(node) for node in again if not _is_view(node))

    def generated(self, graph: Any, module: Any) -> None:
        """A wrapper was made: its lines get their places, and its runs are followed."""
        number, self._graphs = self._graphs, self._graphs + 1
        paths = self._recorder.paths.by_id()
        origins = origins_of(module.__file__, graph)
        self._places[module.__file__] = {line: self._place(origin, paths) for line, origin in origins.items()}
        module.call = self._followed(number, module.call)

    # Where a wrapper's ops come from.

    def place(self) -> Place | None:
        """Of the line of a wrapper that runs now, if one does."""
        here = self._line()
        if self._trial:
            return Place(_TRIAL, *(here[1:3] if here is not None else ("", "")), True)
        return here

    def _line(self) -> Place | None:
        frame = sys._getframe(3)
        for _ in range(_DEEPEST):
            lines = self._places.get(frame.f_code.co_filename)
            if lines is not None:
                return lines.get(frame.f_lineno, _NOWHERE)
            if frame.f_back is None:
                return None
            frame = frame.f_back
        return None

    def _place(self, origin: Origin, paths: Mapping[str, str]) -> Place:
        if not origin.nodes:
            return Place(origin.name, "", "")
        node = origin.nodes[-1]
        return Place(origin.name, module_of(node, paths), self._source(node))

    def _source(self, node: Node) -> str:
        return self._recorder.sources.shown(frames_of(node))

    def _saved_row(self, node: Node) -> Saved:
        value = _value(node)
        shape = tuple(_without_guard(size) for size in value.shape)
        size = value.element_size() * math.prod(shape)
        module = module_of(node, self._recorder.paths.by_id())
        return Saved(_short(node), module, self._source(node), shape, str(value.dtype)[6:], size)

    def _note_break(self, reason: str, frames: Sequence[tuple[str, int]]) -> None:
        where = self._recorder.sources.shown(frames)
        text = f"{where}: {_first_line(reason)}" if where else _first_line(reason)
        self._breaks[text] = self._breaks.get(text, 0) + 1

    # Runs.

    def _followed(self, number: int, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(args: Any) -> Any:
            ledger = self._recorder.ledger
            start = len(ledger)
            try:
                return call(args)
            finally:
                self._runs.append(Run(number, start, len(ledger)))

        return run

    def compilation(self) -> Compilation | None:
        """What was compiled; None if nothing was."""
        if not self._graphs and not self._breaks:
            return None
        saved = tuple(row._replace(count=count) for row, count in sorted(self._saved.items()))
        again = tuple(sorted(self._recomputed.items(), key=lambda item: (-item[1], item[0])))
        return Compilation(self._graphs, tuple(self._breaks), saved, again, self._pools())

    def _pools(self) -> int:
        """Bytes that CUDA graphs would keep at most, in whole segments: for each graph its inputs' copies and the most
        that it held of its own in a run, which graphs of one step may share; cuBLAS's workspace, which each capture
        takes anew in the pool and leaves there (`clear_cublas_manager`, torch/_inductor/cudagraph_trees.py); and a
        segment of the capture's stream, for the generator's state. One run of `generate` on an H200 had this sum; how
        it is made up there was not recorded."""
        if not self._copied:
            return 0
        largest: Counter[int] = Counter()
        actions, buffers, ops, _, sizes = self._recorder.ledger.events().columns
        for run in self._runs:
            own: dict[int, int] = {}
            live = most = 0
            for event in range(run.start, run.stop):
                if actions[event] == Action.ALLOC and self._recorder.ops[ops[event]].name != _TRIAL:
                    own[buffers[event]] = sizes[event]
                    live += sizes[event]
                    most = max(most, live)
                elif actions[event] in (Action.FREE, Action.FREE_REQUESTED):
                    live -= own.pop(buffers[event], 0)
            largest[run.graph] = max(largest[run.graph], most)
        kept = largest.total() + sum(self._copied.values())
        spec = self._recorder.operators.gpu
        workspace = cublas_workspace_bytes(spec.capability) if any(map(self._multiplies, self._runs)) else 0
        return sum(allocation_size(size) for size in (kept, workspace) if size) + SMALL_BUFFER

    def _multiplies(self, run: Run) -> bool:
        """Whether there is a matrix product among a run's ops."""
        ops = self._recorder.ledger.events().columns[2][run.start : run.stop]
        between = self._recorder.ops[min(ops) : max(ops) + 1] if ops else []
        return any(op.name.split(".")[1] in MATRIX_OPS for op in between)


@contextlib.contextmanager
def _fake_tensors_are_torchs() -> Iterator[None]:
    """Dynamo's own tests for fake tensors ask `torch._subclasses.FakeTensor`."""
    from torch._subclasses.fake_tensor import FakeTensor

    with replaced(torch._subclasses, "FakeTensor", FakeTensor):
        yield


def _value(node: Node) -> Any:
    return node.meta.get("val")


def _without_guard(size: Any) -> int:
    """A size, or what a symbol stands for in this run: asking the symbol itself would make it a constant."""
    return size if isinstance(size, int) else int(size.node.hint or 0)


def _short(node: Node) -> str:
    """`mm` for `aten.mm.default`."""
    name = str(node.target)
    return name.split(".")[1] if name.count(".") > 1 else name


def _looked_at(node: Node) -> Node:
    """What a view is a view of."""
    while node.op == "call_function" and hasattr(node.target, "_schema") and _is_view(node):
        if not isinstance(node.args[0], Node):
            break
        node = node.args[0]
    return node


def _is_view(node: Node) -> bool:
    """Whether a node only looks at another's result, or takes one of several."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(result.alias_info is not None for result in schema.returns)


def _is_dynamos(error: Exception) -> bool:
    """Whether an exception is how Dynamo steers itself: restarts, skipped frames."""
    return type(error).__module__.startswith("torch._dynamo")


def _user_frames(error: Any) -> list[tuple[str, int]]:
    return [(frame.filename, frame.lineno) for frame in getattr(error, "real_stack", None) or ()][::-1]


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
