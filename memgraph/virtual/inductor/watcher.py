"""Who is told what `torch.compile` makes of a run, and the places in the compiler that tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import CodeType
from typing import Any, Protocol

import torch

from memgraph.virtual.patches import replaced


class Watcher(Protocol):
    """Who runs the compiled code, and wants to know what was compiled."""

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """While open, a compiler is at work: nothing that it calls is part of the run."""
        ...

    def recording(self) -> contextlib.AbstractContextManager[Any]:
        """While open, inside a pause, what is called is part of the run after all."""
        ...

    def timing(self) -> contextlib.AbstractContextManager[None]:
        """While open, what is called is only timed on the card."""
        ...

    def own_code(self) -> Sequence[CodeType]:
        """Functions that Dynamo must neither compile nor look into."""
        ...

    def constant(self, tensor: torch.Tensor) -> None:
        """The compiler made this small tensor on the device, while a pause was open."""
        ...

    def captured(self, key: object, copied: int) -> None:
        """A CUDA graph would run now, after so many bytes of inputs were copied to where it reads them."""
        ...

    def state(self, text: str) -> None:
        """Something is assumed."""
        ...

    def entered(self, active: bool) -> None:
        """Dynamo begins to look at the frames that run, or ends."""
        ...

    def traced(self, code: CodeType, local: dict[str, object]) -> None:
        """Dynamo is about to trace a function with these arguments."""
        ...

    def broke(self, reason: Any) -> None:
        """Dynamo ended a graph: a `GraphCompileReason`."""
        ...

    def failed(self, error: Exception, code: CodeType) -> None:
        """A function could not be compiled, and runs eagerly."""
        ...

    def partitioned(self, forward: torch.fx.GraphModule, backward: torch.fx.GraphModule, outputs: int) -> None:
        """AOTAutograd divided a joint graph; the forward's first `outputs` results are the model's own."""
        ...

    def generated(self, graph: Any, module: Any) -> None:
        """Inductor generated a wrapper for a graph: its `GraphLowering`, and the module with `call`."""
        ...


@contextlib.contextmanager
def compiler_is_watched(watcher: Watcher) -> Iterator[None]:
    """Tracing and compiling happen with the recorder away; what comes out is told."""
    with _nothing_said(), _dynamo_is_watched(watcher), _frames_are_watched(watcher), _inductor_is_watched(watcher):
        yield


@contextlib.contextmanager
def _dynamo_is_watched(watcher: Watcher) -> Iterator[None]:
    """It traces a function until something ends the graph."""
    frames = import_module("torch._dynamo.convert_frame")
    graph = import_module("torch._dynamo.output_graph").OutputGraph
    trace, end = frames._compile, graph.compile_subgraph

    def traced(code: CodeType, *args: Any, **kwargs: Any) -> Any:
        with watcher.paused():
            watcher.traced(code, args[1] if len(args) > 1 else kwargs["locals"])
            try:
                return trace(code, *args, **kwargs)
            except Exception as error:
                watcher.failed(error, code)
                raise

    def ended(self: Any, tx: Any, reason: Any, *args: Any, **kwargs: Any) -> Any:
        watcher.broke(reason)
        return end(self, tx, reason, *args, **kwargs)

    with replaced(frames, "_compile", traced), replaced(graph, "compile_subgraph", ended):
        yield


@contextlib.contextmanager
def _frames_are_watched(watcher: Watcher) -> Iterator[None]:
    """Around compiled code, Dynamo sets and resets what looks at the frames that run."""
    evaluating = import_module("torch._dynamo.eval_frame")
    set_frame = evaluating._maybe_set_eval_frame

    def frame_set(callback: Any) -> Any:
        watcher.entered(callback is not None and callback is not False)
        return set_frame(callback)

    with replaced(evaluating, "_maybe_set_eval_frame", frame_set):
        yield


@contextlib.contextmanager
def _inductor_is_watched(watcher: Watcher) -> Iterator[None]:
    """It divides what was traced into a forward and a backward, and generates a wrapper for each."""
    compile_fx = import_module("torch._inductor.compile_fx")
    lowering = import_module("torch._inductor.graph").GraphLowering
    lower, divide = compile_fx._compile_fx_inner, compile_fx.min_cut_rematerialization_partition
    generate = lowering.compile_to_module

    def lowered(*args: Any, **kwargs: Any) -> Any:
        with watcher.paused():  # a backward with dynamic shapes is compiled when it first runs
            return lower(*args, **kwargs)

    def divided(joint: Any, *args: Any, **kwargs: Any) -> Any:
        forward, backward = divide(joint, *args, **kwargs)
        watcher.partitioned(forward, backward, kwargs["num_fwd_outputs"])
        return forward, backward

    def generated(self: Any) -> Any:
        module = generate(self)
        watcher.generated(self, module)
        return module

    with (
        replaced(compile_fx, "_compile_fx_inner", lowered),
        replaced(compile_fx, "min_cut_rematerialization_partition", divided),
        replaced(lowering, "compile_to_module", generated),
    ):
        yield


@contextlib.contextmanager
def _nothing_said() -> Iterator[None]:
    """Dynamo logs what it cannot compile, which the watcher is told, and warns of hooks on all modules, which are the
    recorder's."""
    frames = import_module("torch._dynamo.convert_frame")
    optimized = import_module("torch._dynamo.eval_frame").OptimizedModule
    with replaced(frames.log, "disabled", True), replaced(optimized, "__call__", torch.nn.Module.__call__):
        yield
